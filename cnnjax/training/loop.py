"""Where a run is, what it has found so far, and when its callbacks are called."""

import csv
import dataclasses
import io
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from cnnjax.training.metrics import Metrics
from cnnjax.training.state import TrainState

Row = dict[str, float | int]


class History(Sequence[Row]):
    """Hold a row an epoch; `history["val_loss"]` is a column, `history[-1]` a row."""

    def __init__(self, rows: Sequence[Row] = ()):
        self.rows = [dict(row) for row in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return [row[index] for row in self.rows] if isinstance(index, str) else self.rows[index]

    def __repr__(self) -> str:
        return f"History({self.rows!r})"

    def to_csv(self) -> str:
        """Return the table as CSV text, a header and a row an epoch."""
        text = io.StringIO()
        if self.rows:
            # A column may come up later: steps are skipped only here and there.
            names = dict.fromkeys(name for row in self.rows for name in row)
            writer = csv.DictWriter(text, list(names), restval=0, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        return text.getvalue()


class Callback:
    """Do nothing at each of the points at which `fit` calls; override what you need."""

    def on_start(self, loop: "Loop") -> None:
        """Run once, before the first step."""

    def on_step(self, loop: "Loop") -> None:
        """Run after each step; `loop.batch` counts the epoch's steps."""

    def on_epoch(self, loop: "Loop") -> None:
        """Run after each epoch; `loop.history[-1]` is its row."""

    def on_end(self, loop: "Loop") -> None:
        """Run once after the last epoch, or after the step in which the run was interrupted."""

    def on_close(self, loop: "Loop") -> None:
        """Run last, in an error too, to give back what was taken."""

    def position(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on, as JSON values."""
        return {}

    def arrays(self) -> dict[str, Any]:
        """Return the arrays that a resumed run needs, a nested dict."""
        return {}

    def restore(self, position: dict[str, Any], arrays: dict[str, Any]) -> None:
        """Take what `position` and `arrays` returned in the run that is resumed."""


@dataclasses.dataclass
class Loop:
    """Hold where a run is; callbacks read it and may stop it.

    Args:
      state: The newest state. It is donated to the next step: copy what is to outlive it.
      epochs: Epochs in all.
      callbacks: In the order in which they are called.
      epoch: Epochs finished.
      batch: Steps taken in the epoch under way.
      step: Steps taken in all; `state.step` on the host.
      metrics: Sums over the steps of the epoch under way, as far as they are known; None before the first.
      counted: Steps of the epoch under way that `metrics` covers.
      seconds: Time spent in the epoch's training steps before `began`.
      began: When this process began with the epoch's steps, by `time.perf_counter`; None between epochs.
      history: A row for each finished epoch.
      stopped: Why the run is to end, or None.
      interrupted: Whether it is to end after this very step, within an epoch.
      resumed: Whether it goes on where an earlier one was saved.
    """

    state: TrainState
    epochs: int
    callbacks: Sequence[Callback] = ()
    epoch: int = 0
    batch: int = 0
    step: int = 0
    metrics: Metrics | None = None
    counted: int = 0
    seconds: float = 0.0
    began: float | None = None
    history: History = dataclasses.field(default_factory=History)
    stopped: str | None = None
    interrupted: bool = False
    resumed: bool = False
    # Waits until `metrics` covers every step taken so far.
    settle: Callable[[], None] = lambda: None
    # Makes `metrics` cover every step that is done by now, and waits for none.
    refresh: Callable[[], None] = lambda: None

    def notify(self, point: str) -> None:
        """Call every callback's method of that name."""
        for callback in self.callbacks:
            getattr(callback, point)(self)

    def stop(self, reason: str, *, now: bool = False) -> None:
        """End the run after this epoch, or, with `now`, after this step."""
        self.stopped = reason
        self.interrupted = self.interrupted or now

    def finish_epoch(self, evaluated: Metrics | None, seconds: float) -> None:
        """Write the epoch's row into the history and tell the callbacks.

        Args:
          evaluated: The sums of its evaluation, or None without one.
          seconds: How long that took.
        """
        trained = self.metrics
        if trained is None:
            raise ValueError("Loop.finish_epoch: no step was taken in this epoch.")
        self.epoch += 1
        row: Row = {"epoch": self.epoch, "step": self.step}
        if trained.nonfinite:
            row["skipped"] = int(trained.nonfinite)
        row |= {f"train_{name}": value for name, value in trained.compute().items()}
        if evaluated is not None:
            row |= {f"val_{name}": value for name, value in evaluated.compute().items()}
        row["seconds"] = round(self.seconds + seconds, 3)
        row["images_per_second"] = round(trained.examples / max(self.seconds, 1e-9), 1)
        self.history.rows.append(row)
        self.batch, self.counted, self.metrics, self.seconds = 0, 0, None, 0.0
        self.notify("on_epoch")

    def position(self) -> dict[str, Any]:
        """Return where the run is, as JSON values; covers every step taken."""
        self.settle()
        sums = None if self.metrics is None else {k: v.item() for k, v in vars(self.metrics).items() if v is not None}
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "metrics": sums,
            "seconds": self.seconds + (0.0 if self.began is None else time.perf_counter() - self.began),
            "history": list(self.history),
            "callbacks": {name: position for name, c in self._named() if (position := c.position())},
        }

    def arrays(self) -> dict[str, Any]:
        """Return the callbacks' arrays, by the callback's name."""
        return {name: arrays for name, c in self._named() if (arrays := c.arrays())}

    def restore(self, position: dict[str, Any], arrays: dict[str, Any]) -> None:
        """Go to where `position` and `arrays` were taken.

        Args:
          position: What `position` returned.
          arrays: What `arrays` returned.
        """
        self.resumed = True
        self.epoch, self.batch, self.step = position["epoch"], position["batch"], position["step"]
        self.seconds = position["seconds"]
        self.history = History(position["history"])
        if position["metrics"] is not None:
            self.metrics = Metrics(**{k: np.asarray(v) for k, v in position["metrics"].items()})
            self.counted = self.batch
        for name, callback in self._named():
            if name in position["callbacks"]:
                callback.restore(position["callbacks"][name], arrays.get(name, {}))

    def _named(self) -> list[tuple[str, Callback]]:
        """Return each callback with a name that stays the same from run to run."""
        names: list[str] = []
        for callback in self.callbacks:
            name = type(callback).__name__
            names.append(f"{name}{names.count(name)}" if name in names else name)
        return list(zip(names, self.callbacks))
