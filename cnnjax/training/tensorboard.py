"""TensorBoard files, written without TensorFlow or torch."""

import pathlib
from typing import Any

import jax
import numpy as np

from cnnjax.training.loop import Callback, Loop
from cnnjax.training.optim import Schedule


class TensorBoard(Callback):
    """Write each epoch's metrics as scalars and each layer's parameters as histograms.

    Args:
      log_dir: Folder that `tensorboard --logdir` is to read.
      histograms: Whether to write the histograms.
      learning_rate: Schedule whose value is to be written beside the metrics.
    """

    def __init__(self, log_dir: str | pathlib.Path, *, histograms: bool = True, learning_rate: Schedule | None = None):
        self.log_dir, self.histograms, self.learning_rate = str(log_dir), histograms, learning_rate
        self.writer: Any = None

    def on_start(self, loop: Loop) -> None:
        from tensorboardX import SummaryWriter  # only runs that write need it

        # What a killed run wrote beyond its last checkpoint is dropped, since this one writes it again.
        self.writer = SummaryWriter(self.log_dir, purge_step=loop.step + 1 if loop.step else None)

    def on_epoch(self, loop: Loop) -> None:
        row = loop.history[-1]
        step = row["step"]
        for name, value in row.items():
            group, _, metric = name.partition("_")
            if group in ("train", "val"):
                self.writer.add_scalar(f"{metric}/{group}", value, step)
        self.writer.add_scalar("speed/images_per_second", row["images_per_second"], step)
        if self.learning_rate is not None:
            self.writer.add_scalar("learning_rate", float(self.learning_rate(step)), step)
        if self.histograms:
            for path, leaf in jax.tree_util.tree_flatten_with_path(loop.state.variables)[0]:
                name = "/".join(str(getattr(k, "key", k)) for k in path)
                self.writer.add_histogram(name, np.array(leaf, np.float32), step)
        self.writer.flush()

    def on_close(self, loop: Loop) -> None:
        if self.writer is not None:
            self.writer.close()
