"""Where a run is, what it has found so far, and when its callbacks are called."""

import dataclasses
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.training.history import History, Row
from cnnjax.training.inputs import explain_labels, labels_of
from cnnjax.training.losses import LabelError
from cnnjax.training.metrics import Metrics, NonFiniteError
from cnnjax.training.state import TrainState

# Metrics are fetched this many steps at a time, since each fetch costs as much as a tenth of a small net's step, and
# only those that are at least as old as that, so that the device never waits for the host.
CHUNK = 64


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

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on, as JSON values."""
        return {}

    def arrays(self) -> dict[str, Any]:
        """Return the arrays that a resumed run needs, a nested dict."""
        return {}

    def restore(self, position: dict[str, Any], arrays: dict[str, Any]) -> None:
        """Take what `state_dict` and `arrays` returned in the run that is resumed."""


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
    # What `metrics` does not cover yet: each step's metrics and labels.
    _pending: deque[tuple[Metrics, Any]] = dataclasses.field(default_factory=deque)

    def notify(self, point: str) -> None:
        """Call every callback's method of that name."""
        for callback in self.callbacks:
            getattr(callback, point)(self)

    def stop(self, reason: str, *, now: bool = False) -> None:
        """End the run after this epoch, or, with `now`, after this step."""
        self.stopped = reason
        self.interrupted = self.interrupted or now

    def advance(self, metrics: Metrics, batch: Any) -> None:
        """Count a step, and take in the metrics of those that are long done.

        Args:
          metrics: The step's, which may still be under way on the device.
          batch: What the step was given.
        """
        self.batch += 1
        self.step += 1
        self._pending.append((metrics, labels_of(batch)))
        if len(self._pending) == 2 * CHUNK:
            self._collect(CHUNK)

    def flush(self) -> None:
        """Make `metrics` cover every step taken so far, waiting for the device."""
        self._collect(len(self._pending))

    def poll(self) -> None:
        """Make `metrics` cover every step that is done by now, and wait for none."""
        self._collect(sum(_is_ready(metrics) for metrics, _ in self._pending))

    def _collect(self, count: int) -> None:
        """Add the metrics of the oldest steps to the epoch's; end the run at one that is not finite."""
        while count > 0:
            first, size = self.step - len(self._pending) + 1, min(CHUNK, count)
            taken = [self._pending.popleft() for _ in range(size)]
            metrics = [m for m, _ in taken]
            # One length alone is stacked on the device, because each is a compile.
            host = (_stack(metrics) if size == CHUNK else _stack_on_host(metrics)).to_host()
            self._check_finite(host, first, [labels for _, labels in taken])
            # One after the other, so that the sums do not depend on where a run was cut.
            start = jax.tree.map(lambda values: np.zeros_like(values[0]), host)
            self.metrics = jax.tree.map(_add_in_order, start if self.metrics is None else self.metrics, host)
            self.counted += size
            count -= size

    def _check_finite(self, host: Metrics, first: int, labels: list[Any]) -> None:
        """End the run at the first step that is not finite and was not skipped; a skipped one has no examples."""
        # A sum over examples is finite exactly when all of them are: two infinities of opposite sign give a NaN.
        bad = ~np.isfinite(host.loss_sum)
        if host.nonfinite is not None:
            bad |= (host.nonfinite > 0) & (host.count > 0)
        if not bad.any():
            return
        at = int(bad.argmax())
        value, where = float(host.loss_sum[at]), f"at step {first + at} (epoch {self.epoch + 1})"
        if fault := explain_labels(self.state, *labels[at]):
            raise LabelError(f"{fault}, {where}.")
        what = "the gradients, parameters, running statistics or the optimizer's state became nan or inf"
        raise NonFiniteError(
            f"{what if np.isfinite(value) else f'the loss became {value}'} {where}. "
            "Lower the learning rate, or check the labels and the images."
        )

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

    def state_dict(self) -> dict[str, Any]:
        """Return where the run is, as JSON values; covers every step taken."""
        self.flush()
        sums = None if self.metrics is None else {k: v.item() for k, v in vars(self.metrics).items() if v is not None}
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "metrics": sums,
            "seconds": self.seconds + (0.0 if self.began is None else time.perf_counter() - self.began),
            "history": list(self.history),
            "callbacks": {name: position for name, c in self._named() if (position := c.state_dict())},
        }

    def arrays(self) -> dict[str, Any]:
        """Return the callbacks' arrays, by the callback's name."""
        return {name: arrays for name, c in self._named() if (arrays := c.arrays())}

    def restore(self, position: dict[str, Any], arrays: dict[str, Any]) -> None:
        """Go to where `state_dict` and `arrays` were taken.

        Args:
          position: What `state_dict` returned.
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


def _is_ready(metrics: Metrics) -> bool:
    return not hasattr(metrics.count, "is_ready") or metrics.count.is_ready()


@jax.jit
def _stack(metrics: list[Metrics]) -> Metrics:
    return jax.tree.map(lambda *values: jnp.stack(values), *metrics)


def _stack_on_host(metrics: list[Metrics]) -> Metrics:
    return jax.tree.map(lambda *values: np.array(values), *jax.device_get(metrics))


def _add_in_order(start: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.add.accumulate(np.concatenate([np.asarray(start)[None], values]))[-1]
