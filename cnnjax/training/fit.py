"""The loop: epochs of steps, an exact evaluation after each, and callbacks in between."""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.errors import CnnjaxError
from cnnjax.training.loop import Callback, History, Loop
from cnnjax.training.metrics import Metrics
from cnnjax.training.progress import Progress
from cnnjax.training.state import TrainState
from cnnjax.training.step import EvalStep, TrainStep
from cnnjax.training.step import eval_step as default_eval_step
from cnnjax.training.step import train_step as default_train_step

Batches = Iterable[Any] | Callable[..., Iterable[Any]]

# Metrics are fetched this many steps at a time, since each fetch costs as much as a tenth of a small net's step, and
# only those that are at least as old as that, so that the device never waits for the host.
_CHUNK = 64


class NonFiniteError(CnnjaxError, FloatingPointError):
    """The loss, or what a step made of the parameters, became NaN or infinite."""


def fit(
    state: TrainState,
    train_batches: Batches,
    eval_batches: Batches | None = None,
    *,
    epochs: int,
    callbacks: Sequence[Callback] = (),
    train_step: TrainStep = default_train_step,
    eval_step: EvalStep = default_eval_step,
    progress: bool = True,
    resume: tuple[dict[str, Any], dict[str, Any]] | None = None,
) -> tuple[TrainState, History]:
    """Train for some epochs, evaluating after each; install no signal handler and write no file.

    Args:
      state: Where to start from; donated, so use the one that comes back.
      train_batches: An iterable of batches that can be walked anew each epoch, or a function `epoch -> batches`,
        called as `(epoch, start)` when an epoch is resumed after its first `start` batches.
      eval_batches: The same for evaluation, called without arguments when it is a function; None for no evaluation.
      epochs: Epochs in all, those before a resumed one included.
      callbacks: Called in order after each step and each epoch.
      train_step: `(state, batch) -> (state, metrics)`.
      eval_step: `(state, batch) -> metrics`.
      progress: Whether to show the progress on stdout.
      resume: What `Loop.position` and `Loop.arrays` gave when `state` was saved, to go on exactly there.
    Returns:
      The last state and the history, a row an epoch.
    Raises:
      ValueError: If an epoch has no batch.
      NonFiniteError: If the loss, the gradients or the result of a step is not finite, unless the step was skipped;
        the message names the step.
    """
    loop = Loop(state, epochs, [*([Progress()] if progress else []), *callbacks], step=int(jax.device_get(state.step)))
    if resume is not None:
        loop.restore(*resume)
    try:
        loop.notify("on_start")
        while loop.epoch < epochs and not loop.stopped:
            _run_epoch(loop, train_batches, eval_batches, train_step, eval_step)
        loop.notify("on_end")
    finally:
        loop.notify("on_close")
    return loop.state, loop.history


def evaluate(state: TrainState, eval_batches: Batches, *, eval_step: EvalStep = default_eval_step) -> Metrics:
    """Return the metrics of all batches together, each unmasked example counted once.

    Args:
      state: The state to evaluate.
      eval_batches: Batches, or a function that returns them.
      eval_step: `(state, batch) -> metrics`.
    Returns:
      The sums, on the host, in 64-bit types; `.loss`, `.accuracy` and `.top5` are the averages.
    Raises:
      ValueError: If there is no batch.
      NonFiniteError: If the loss is no finite number.
    """
    batches = eval_batches() if callable(eval_batches) else eval_batches
    under_way: deque[Metrics] = deque()
    total = None
    for batch in batches:
        under_way.append(eval_step(state, batch))
        if len(under_way) > _CHUNK:
            total = _add(total, under_way.popleft())
    for metrics in under_way:
        total = _add(total, metrics)
    if total is None:
        raise ValueError("evaluate: expected at least one batch, got none. Check that the split is not empty.")
    if not np.isfinite(total.loss_sum):
        raise NonFiniteError(
            f"evaluation: the loss over {int(total.count):,} examples is {float(total.loss_sum)}. "
            "The parameters have diverged, or a label is not one of the model's classes."
        )
    return total


def _run_epoch(
    loop: Loop, train_batches: Batches, eval_batches: Batches | None, train_step: TrainStep, eval_step: EvalStep
) -> None:
    loop.began = time.perf_counter()
    under_way: deque[Metrics] = deque()

    loop.settle = lambda: _collect(loop, under_way)
    loop.refresh = lambda: _collect(loop, under_way, finished=True)
    for batch in _epoch_batches(train_batches, loop.epoch, loop.batch):
        loop.state, metrics = train_step(loop.state, batch)
        loop.batch += 1
        loop.step += 1
        under_way.append(metrics)
        if len(under_way) == 2 * _CHUNK:
            _collect(loop, under_way, behind=_CHUNK)
        loop.notify("on_step")
        if loop.interrupted:
            break
    loop.settle()
    loop.seconds += time.perf_counter() - loop.began
    loop.began = None
    if loop.interrupted:
        return
    if loop.metrics is None:
        raise ValueError(
            f"fit: expected batches for epoch {loop.epoch + 1}, got none. "
            "Pass a list or a function epoch -> batches; a generator is used up after one epoch."
        )
    if not loop.metrics.count:
        raise NonFiniteError(
            f"every one of the {loop.batch} steps of epoch {loop.epoch + 1} was skipped, because none was finite. "
            "Lower the learning rate, or check the labels and the images."
        )
    begin = time.perf_counter()
    try:
        evaluated = evaluate(loop.state, eval_batches, eval_step=eval_step) if eval_batches is not None else None
    except NonFiniteError as error:
        skipped = int(loop.metrics.nonfinite or 0)
        note = f", {skipped} of its {loop.batch} steps skipped" if skipped else ""
        raise NonFiniteError(f"after step {loop.step} (epoch {loop.epoch + 1}{note}), {error}") from error
    loop.finish_epoch(evaluated, time.perf_counter() - begin)


def _epoch_batches(train_batches: Batches, epoch: int, start: int) -> Iterable[Any]:
    if callable(train_batches):
        return train_batches(epoch, start) if start else train_batches(epoch)
    return itertools.islice(train_batches, start, None)


def _collect(loop: Loop, under_way: deque[Metrics], *, behind: int = 0, finished: bool = False) -> None:
    """Add the metrics of all steps but the newest `behind` to the epoch's; end the run if a loss is no number.

    With `finished` only those of steps that the device has done: it is never waited for, and never out of work.
    """
    if finished:
        behind = sum(not _is_ready(metrics) for metrics in under_way)
    while len(under_way) > behind:
        first = loop.step - len(under_way) + 1
        size = min(_CHUNK, len(under_way) - behind)
        metrics = [under_way.popleft() for _ in range(size)]
        # One length alone is stacked on the device, because each is a compile.
        host = (_stack(metrics) if size == _CHUNK else _stack_on_host(metrics)).to_host()
        _check_finite(host, first, loop.epoch)
        # One after the other, so that the sums do not depend on where a run was cut.
        start = jax.tree.map(np.zeros_like, jax.tree.map(lambda values: values[0], host))
        loop.metrics = jax.tree.map(_add_in_order, start if loop.metrics is None else loop.metrics, host)
        loop.counted += size


def _check_finite(host: Metrics, first: int, epoch: int) -> None:
    """End the run at the first step of some that is not finite and was not skipped; a skipped one has no examples."""
    # A sum over examples is finite exactly when all of them are: two infinities of opposite sign give a NaN.
    bad = ~np.isfinite(host.loss_sum)
    if host.nonfinite is not None:
        bad |= (host.nonfinite > 0) & (host.count > 0)
    if not bad.any():
        return
    at = int(bad.argmax())
    value = float(host.loss_sum[at])
    what = "the gradients, parameters, running statistics or the optimizer's state became nan or inf"
    raise NonFiniteError(
        f"{what if np.isfinite(value) else f'the loss became {value}'} at step {first + at} (epoch {epoch + 1}). "
        "Lower the learning rate, or check the labels and the images."
    )


def _is_ready(metrics: Metrics) -> bool:
    return not hasattr(metrics.count, "is_ready") or metrics.count.is_ready()


@jax.jit
def _stack(metrics: list[Metrics]) -> Metrics:
    return jax.tree.map(lambda *values: jnp.stack(values), *metrics)


def _add_in_order(start: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.add.accumulate(np.concatenate([np.asarray(start)[None], values]))[-1]


def _stack_on_host(metrics: list[Metrics]) -> Metrics:
    return jax.tree.map(lambda *values: np.array(values), *jax.device_get(metrics))


def _add(total: Metrics | None, metrics: Metrics) -> Metrics:
    host = metrics.to_host()
    return host if total is None else total + host
