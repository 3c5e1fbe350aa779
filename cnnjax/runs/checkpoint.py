"""When a run is saved, and the thread that writes it down while the run goes on."""

import copy
import functools
import math
import pathlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax

from cnnjax.errors import UsageError
from cnnjax.runs import storage
from cnnjax.runs.arrays import Flat, flatten_callbacks, flatten_state
from cnnjax.runs.retention import Best, CheckpointRetention
from cnnjax.training import Callback, Loop


class Checkpoints(Callback):
    """A run's checkpoints, from which it can go on exactly: between epochs, every so many steps, and when it ends.

    What is to be saved is copied to the host at once; a thread writes it while the run goes on, one checkpoint at a
    time. A save that fails ends the run at the next step or epoch; the checkpoints before it stay. The last one is
    waited for, and so is the one after a signal. A process that is killed loses the steps since the newest checkpoint:
    at most `every_steps`, and those taken while one was being written.

    On several hosts the first one writes. One process at a time may use the folder, see `Workdir`.

    Args:
      directory: Folder of the checkpoints.
      every_steps: Save within epochs too, each time that many steps have been taken; None for not.
      every_seconds: Between epochs, save only when the last checkpoint is at least that old.
      keep: How many of the newest whole checkpoints to keep; damaged ones are neither counted nor removed.
      keep_best: A column of the history, such as `val_loss`: each epoch that is the best so far is saved, and the best
        one kept however old it is, in the runs that resume this one too. None for the newest alone.
      mode: `min`, `max`, or `auto`: max for a name that ends in accuracy or top5, else min.
    Raises:
      UsageError: If an argument is out of range, or the history has no such column.
      CheckpointError: If a checkpoint could not be written.
    """

    def __init__(
        self,
        directory: str | pathlib.Path,
        *,
        every_steps: int | None = None,
        every_seconds: float = 10.0,
        keep: int = 2,
        keep_best: str | None = None,
        mode: str = "auto",
    ):
        if keep < 1 or (every_steps is not None and every_steps < 1):
            raise UsageError(f"Checkpoints: expected keep and every_steps of at least 1, got {keep} and {every_steps}.")
        self.directory = pathlib.Path(directory)
        self.every_steps, self.every_seconds, self.keep = every_steps, every_seconds, keep
        self.best = Best(keep_best, mode) if keep_best is not None else None
        self.retention = CheckpointRetention(self.directory, keep, self.best)
        self.writer = Writer()
        self._forget()

    def on_start(self, loop: Loop) -> None:
        self._forget()
        beyond = self.retention.whole(beyond=loop.step)
        if beyond:
            raise UsageError(
                f"Checkpoints: this run is at step {loop.step:,}, but {self.directory} has {beyond[-1].name}. "
                "Resume from the newest with runs.load_newest, or give another folder."
            )
        if self.best is not None:
            self.lowest_cost = self.retention.lowest_cost()

    def on_step(self, loop: Loop) -> None:
        self.writer.check()
        if self.every_steps and loop.step % self.every_steps == 0 and not loop.interrupted:
            self._save(loop)

    def on_epoch(self, loop: Loop) -> None:
        self.writer.check()
        ends_now = loop.stopped or loop.epoch == loop.epochs
        due = not ends_now and time.monotonic() - self.saved_at >= self.every_seconds
        if self._is_best(loop) or due:
            self._save(loop)

    def on_end(self, loop: Loop) -> None:
        self._save(loop, final=not loop.interrupted)
        self.writer.wait()

    def on_close(self, loop: Loop) -> None:
        """Wait for what is being written, in an error too: it may be the checkpoint to go on from."""
        under_way = sys.exception()
        try:
            self.writer.wait()
        except Exception as error:
            if under_way is None:
                raise
            under_way.add_note(str(error))  # the first error is the one to be told

    def _forget(self) -> None:
        self.saved_at = -math.inf  # the first epoch is saved, however short
        self.lowest_cost = math.inf

    def _is_best(self, loop: Loop) -> bool:
        if self.best is None:
            return False
        row = loop.history[-1]
        if self.best.monitor not in row:
            known = ", ".join(name for name in row if name.startswith(("train_", "val_")))
            raise UsageError(f"Checkpoints: no metric {self.best.monitor!r} to keep the best by. Known: {known}.")
        cost = self.best.cost({"step": loop.step, "history": [row]})
        better = cost < self.lowest_cost
        self.lowest_cost = min(cost, self.lowest_cost)
        return better

    def _save(self, loop: Loop, *, final: bool = False) -> None:
        self.writer.wait()  # so that there is never more than one copy of the state on the host
        name = f"step-{loop.step:09d}-epoch-{loop.epoch:05d}" + (f"-{storage.FINAL}" if final else "")
        position = copy.deepcopy(loop.state_dict())  # the run goes on writing to its history
        arrays = flatten_state(loop.state) | flatten_callbacks(loop.arrays())
        self.saved_at = time.monotonic()
        if jax.process_index() == 0:
            path = self.directory / name
            with storage.saving(path):
                aside = storage.prepare(path)  # here, so that a disk that refuses everything is noticed at once
            self.writer.submit(functools.partial(self._write, path, aside, arrays, position))

    def _write(self, path: pathlib.Path, aside: pathlib.Path, arrays: Flat, position: dict[str, Any]) -> None:
        with storage.saving(path):
            storage.write(path, aside, arrays, position)
        self.retention.prune()


class Writer:
    """One piece of work at a time in a thread; what it raises is raised where the next thing is asked of it."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def submit(self, work: Callable[[], object]) -> None:
        """Begin some work, after what is under way has ended without an error."""
        self.wait()
        # Not a daemon: an interpreter that ends by itself lets it finish.
        self._thread = threading.Thread(target=self._do, args=(work,), name="cnnjax-checkpoint")
        self._thread.start()

    def check(self) -> None:
        """Raise what work has raised by now, once; never wait."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Wait until the work under way has ended, and raise what it has raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _do(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error
