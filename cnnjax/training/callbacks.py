"""Callbacks that any run can use."""

import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax import files
from cnnjax.errors import CnnjaxError, UsageError
from cnnjax.training.loop import Callback, Loop


class EarlyStopping(Callback):
    """Stop when a metric has not become better for some epochs.

    Args:
      monitor: A column of the history, such as `val_loss` or `val_accuracy`.
      patience: Epochs without an improvement after which the run stops; at least 1.
      min_delta: What counts as an improvement, in the metric's units.
      restore_best: Whether the run ends with the best epoch's parameters and statistics instead of the last one's.
      mode: `min`, `max`, or `auto`: max for a name that ends in accuracy or top5, else min.
    Raises:
      UsageError: If an argument is out of range, or the history has no such column.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 3,
        min_delta: float = 0.0,
        restore_best: bool = True,
        *,
        mode: str = "auto",
    ):
        if patience < 1 or not min_delta >= 0 or mode not in ("auto", "min", "max"):
            raise UsageError(
                "EarlyStopping: expected patience >= 1, min_delta >= 0 and mode auto, min or max, got "
                f"{patience}, {min_delta} and {mode!r}."
            )
        if mode == "auto":
            mode = "max" if monitor.endswith(("accuracy", "top5")) else "min"
        self.monitor, self.patience, self.min_delta, self.restore_best = monitor, patience, min_delta, restore_best
        self.sign = 1.0 if mode == "min" else -1.0
        self._forget()

    def on_start(self, loop: Loop) -> None:
        if not loop.resumed:  # the same object in a second `fit` judges that run alone
            self._forget()
        elif self.reason is not None:  # the run had ended; only what comes after it is left to do
            loop.stop(self.reason)

    def on_epoch(self, loop: Loop) -> None:
        row = loop.history[-1]
        if self.monitor not in row:
            known = ", ".join(name for name in row if name.startswith(("train_", "val_")))
            raise UsageError(f"EarlyStopping: no metric {self.monitor!r} to watch. Known: {known}.")
        value = self.sign * row[self.monitor]
        # A NaN compares as no improvement.
        if value < self.best - self.min_delta:
            self.best, self.best_epoch = value, loop.epoch
            if self.restore_best:
                # Copies, because the next step gives the state's own memory away.
                self.best_variables = _copy(loop.state.variables | ({"ema": loop.state.ema} if loop.state.ema else {}))
        elif loop.epoch - self.best_epoch >= self.patience:
            self.reason = f"{self.monitor} did not improve for {self.patience} epochs (best: epoch {self.best_epoch})"
            loop.stop(self.reason)

    def on_end(self, loop: Loop) -> None:
        if self.best_variables and not loop.interrupted:
            best = _copy(self.best_variables)
            if "ema" in best:  # a checkpoint holds arrays alone, so statistics that are an empty dict are not in it
                best["ema"] = {**loop.state.ema, **best["ema"]}
            loop.state = loop.state.replace(**best)

    def state_dict(self) -> dict[str, Any]:
        # No improvement yet has no place in JSON, which knows no infinity.
        best = self.best if self.best_epoch else None
        return {"best": best, "best_epoch": self.best_epoch, "reason": self.reason}

    def arrays(self) -> dict[str, Any]:
        return self.best_variables

    def restore(self, position: dict[str, Any], arrays: dict[str, Any]) -> None:
        self.best_epoch, self.reason = position["best_epoch"], position["reason"]
        self.best = position["best"] if self.best_epoch else math.inf
        self.best_variables = _copy(arrays)

    def _forget(self) -> None:
        self.best = math.inf
        self.best_epoch = 0
        self.best_variables: dict[str, Any] = {}
        self.reason: str | None = None


class CsvHistory(Callback):
    """Write the history as a CSV file after each epoch, whole, so that a resumed run doubles and drops no row."""

    def __init__(self, path: str | pathlib.Path):
        self.path = pathlib.Path(path)

    def on_start(self, loop: Loop) -> None:
        if loop.resumed:  # a killed run may have written rows beyond its last checkpoint
            files.write_text(self.path, loop.history.to_csv())

    def on_epoch(self, loop: Loop) -> None:
        files.write_text(self.path, loop.history.to_csv())


class Profile(Callback):
    """A recording of some steps, of what the device and the host do.

    `tensorboard --logdir DIR` (with its profile plugin) and https://ui.perfetto.dev show what it writes.

    Args:
      directory: Where to write.
      first: Step before which recording begins, counted from 0; in a resumed run that is beyond it, at once.
      last: Step before which it ends, greater than `first`.
    """

    def __init__(self, directory: str | pathlib.Path, first: int, last: int):
        self.directory, self.first, self.last = pathlib.Path(directory), first, last
        self.running = False

    def on_start(self, loop: Loop) -> None:
        self._begin(loop)

    def on_step(self, loop: Loop) -> None:
        if self.running and loop.step >= self.last:
            jax.block_until_ready(loop.state)
            self._end()
        self._begin(loop)

    def on_close(self, loop: Loop) -> None:
        self._end()

    def _begin(self, loop: Loop) -> None:
        if self.running or not self.first <= loop.step < self.last:
            return
        try:
            jax.profiler.start_trace(self.directory, create_perfetto_trace=True)
        except (OSError, RuntimeError) as error:
            raise CnnjaxError(f"cannot record a profile in {self.directory}: {error}.") from error
        self.running = True

    def _end(self) -> None:
        if not self.running:
            return
        self.running = False
        try:
            jax.profiler.stop_trace()
        except (OSError, RuntimeError) as error:
            raise CnnjaxError(f"cannot write the profile in {self.directory}: {error}.") from error


def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.array, tree)
