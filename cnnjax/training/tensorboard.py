"""TensorBoard files, written without TensorFlow or torch."""

import contextlib
import os
import pathlib
import platform
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from cnnjax.errors import CnnjaxError
from cnnjax.training.loop import Callback, Loop
from cnnjax.training.optim import Schedule, path_text

_BUCKETS = 64


class TensorBoard(Callback):
    """Write each epoch's metrics as scalars and each layer's parameters as histograms.

    Args:
      log_dir: Folder that `tensorboard --logdir` is to read.
      histograms: Whether to write the histograms.
      learning_rate: Schedule whose value is to be written beside the metrics.
    Raises:
      CnnjaxError: If the files cannot be written.
    """

    def __init__(self, log_dir: str | pathlib.Path, *, histograms: bool = True, learning_rate: Schedule | None = None):
        self.log_dir, self.histograms, self.learning_rate = pathlib.Path(log_dir), histograms, learning_rate
        self.writer: Any = None

    def on_start(self, loop: Loop) -> None:
        # Not tensorboardX's SummaryWriter: on a full disk its thread dies, and the queue before it blocks for ever.
        from tensorboardX.proto.event_pb2 import SessionLog  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.record_writer import RecordWriter

        # The process and the step are in the name, so that a run resumed within the second writes a file of its own.
        with self._writing():
            self.log_dir.mkdir(parents=True, exist_ok=True)
            others = [int(path.name.split(".")[3]) for path in self.log_dir.glob("events.out.tfevents.[0-9]*.*")]
            # TensorBoard reads files in the order of their names, which a clock that was set back must not change.
            begun = max([int(time.time()), *(other + 1 for other in others)])
            name = f"events.out.tfevents.{begun:010d}.{platform.node()}.{os.getpid()}.{loop.step}"
            self.writer = RecordWriter(str(self.log_dir / name))
            self._write(0, file_version="brain.Event:2")
            if others:  # what a killed run wrote of epochs that its last checkpoint had not finished comes again
                # Counted from the last finished one: a checkpoint of an epoch's last step may be older than its event.
                finished = loop.history[-1]["step"] if len(loop.history) else 0
                self._write(finished + 1, session_log=SessionLog(status=SessionLog.START))

    def on_epoch(self, loop: Loop) -> None:
        from tensorboardX import summary

        row = loop.history[-1]
        summaries = [summary.scalar(name, value) for name, value in self._scalars(row)]
        if self.histograms:
            for keys, leaf in jax.tree_util.tree_flatten_with_path(loop.state.variables)[0]:
                summaries.append(summary.histogram(path_text(keys), np.array(leaf, np.float32), _BUCKETS))
        with self._writing():
            for one in summaries:
                self._write(row["step"], summary=one)
            self.writer.flush()

    def on_close(self, loop: Loop) -> None:
        if self.writer is not None:
            with contextlib.suppress(OSError):  # the write that failed has said so
                self.writer.close()

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

        self.writer.write(Event(wall_time=time.time(), step=step, **content).SerializeToString())

    def _scalars(self, row: dict[str, Any]) -> Iterator[tuple[str, float]]:
        for name, value in row.items():
            group, _, metric = name.partition("_")
            if group in ("train", "val"):
                yield f"{metric}/{group}", value
        yield "speed/images_per_second", row["images_per_second"]
        if self.learning_rate is not None:
            yield "learning_rate", float(self.learning_rate(row["step"]))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CnnjaxError(f"cannot write TensorBoard files in {self.log_dir}: {error.strerror}.") from error
