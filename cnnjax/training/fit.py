"""The loop: epochs of steps, an exact evaluation after each, and callbacks in between."""

import dataclasses
import functools
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from cnnjax.training.history import History
from cnnjax.training.inputs import check_batches, check_state, explain_labels, from_loader, is_donated, labels_of
from cnnjax.training.loop import CHUNK, Callback, Loop
from cnnjax.training.losses import LabelError
from cnnjax.training.metrics import Metrics, NonFiniteError
from cnnjax.training.progress import Progress
from cnnjax.training.state import TrainState
from cnnjax.training.step import EvalStep, TrainStep
from cnnjax.training.step import eval_step as default_eval_step
from cnnjax.training.step import train_step as default_train_step

Batches = Iterable[Any] | Callable[..., Iterable[Any]]


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
    channels_first: bool = False,
) -> tuple[TrainState, History]:
    """Train for some epochs, evaluating after each; install no signal handler and write no file.

    When it is interrupted, by Ctrl-C or by an error in a callback, `state` itself becomes the newest state, so that
    nothing is lost: the same call goes on from there.

    Args:
      state: Where to start from; donated, so use the one that comes back.
      train_batches: An iterable of batches that can be walked anew each epoch, or a function `epoch -> batches`,
        called as `(epoch, start)` when an epoch is resumed after its first `start` batches. Batches are `Batch`es,
        mappings with `image` and `label`, or pairs `(images, labels)`, of arrays, tensors or lists: those of Grain,
        PyTorch's DataLoader, tf.data and Hugging Face's datasets. Images are float, scaled as the model wants them.
      eval_batches: The same for evaluation, called without arguments when it is a function; None for no evaluation.
      epochs: Epochs in all, those before a resumed one included.
      callbacks: Called in order after each step and each epoch.
      train_step: `(state, batch) -> (state, metrics)`.
      eval_step: `(state, batch) -> metrics`.
      progress: Whether to show the progress on stdout.
      channels_first: Whether the images are `[N, C, H, W]`, as PyTorch has them; they are then transposed.
      resume: What `Loop.state_dict` and `Loop.arrays` gave when `state` was saved, to go on exactly there.
    Returns:
      The last state and the history, a row an epoch.
    Raises:
      UsageError: If the state was donated before, or something else than batches is given.
      ValueError: If an epoch has no batch.
      LabelError: If a label is not one of the model's classes.
      NonFiniteError: If the loss, the gradients or the result of a step is not finite, unless the step was skipped;
        the message names the step.
    """
    check_state("fit", state)
    check_batches("fit", train_batches, train=True)
    if eval_batches is not None:
        check_batches("fit", eval_batches)
    convert = functools.partial(from_loader, channels_first=channels_first)
    loop = Loop(state, epochs, [*([Progress()] if progress else []), *callbacks], step=int(jax.device_get(state.step)))
    if resume is not None:
        loop.restore(*resume)
    try:
        loop.notify("on_start")
        while loop.epoch < epochs and not loop.stopped:
            _run_epoch(loop, _epoch_batches(train_batches, loop, convert), train_step)
            if not loop.interrupted:
                _end_epoch(loop, eval_batches, eval_step, channels_first)
        loop.notify("on_end")
    except BaseException as error:
        if is_donated(state) and not is_donated(loop.state):
            _keep(state, loop.state)
            if isinstance(error, KeyboardInterrupt):
                error.add_note(f"fit: the state that it was given is now that of step {loop.step}, to go on from.")
        raise
    finally:
        loop.notify("on_close")
    return loop.state, loop.history


def evaluate(
    state: TrainState,
    eval_batches: Batches,
    *,
    eval_step: EvalStep = default_eval_step,
    channels_first: bool = False,
) -> Metrics:
    """Return the metrics of all batches together, each unmasked example counted once.

    Args:
      state: The state to evaluate.
      eval_batches: Batches, as `fit` takes them, or a function that returns them.
      eval_step: `(state, batch) -> metrics`.
      channels_first: Whether the images are `[N, C, H, W]`.
    Returns:
      The sums, on the host, in 64-bit types; `.loss`, `.accuracy` and `.top5` are the averages.
    Raises:
      ValueError: If there is no batch.
      LabelError: If a label is not one of the model's classes.
      NonFiniteError: If the loss is not finite.
    """
    check_state("evaluate", state)
    check_batches("evaluate", eval_batches)
    under_way: deque[tuple[Metrics, Any]] = deque()
    total = None
    for batch in itertools.chain(eval_batches() if callable(eval_batches) else eval_batches, [None]):
        if batch is not None:
            batch = from_loader(batch, channels_first=channels_first)
            under_way.append((eval_step(state, batch), labels_of(batch)))
        while len(under_way) > (CHUNK if batch is not None else 0):
            metrics, labels = under_way.popleft()
            host = metrics.to_host()
            if not np.isfinite(host.loss_sum) and (fault := explain_labels(state, *labels)):
                raise LabelError(f"evaluation: {fault}.")
            total = host if total is None else total + host
    if total is None:
        raise ValueError("evaluate: expected at least one batch, got none. Check that the split is not empty.")
    if not np.isfinite(total.loss_sum):
        raise NonFiniteError(
            f"evaluation: the loss over {int(total.count):,} examples is {float(total.loss_sum)}. "
            "The parameters have diverged, or a label is not one of the model's classes."
        )
    return total


def _run_epoch(loop: Loop, batches: Iterable[Any], train_step: TrainStep) -> None:
    loop.began = time.perf_counter()
    for batch in batches:
        _take_step(loop, train_step, batch)
        loop.notify("on_step")
        if loop.interrupted:
            break
    loop.flush()
    loop.seconds += time.perf_counter() - loop.began
    loop.began = None


def _end_epoch(loop: Loop, eval_batches: Batches | None, eval_step: EvalStep, channels_first: bool) -> None:
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
        evaluated = None
        if eval_batches is not None:
            evaluated = evaluate(loop.state, eval_batches, eval_step=eval_step, channels_first=channels_first)
    except NonFiniteError as error:
        skipped = int(loop.metrics.nonfinite or 0)
        note = f", {skipped} of its {loop.batch} steps skipped" if skipped else ""
        raise NonFiniteError(f"after step {loop.step} (epoch {loop.epoch + 1}{note}), {error}") from error
    loop.finish_epoch(evaluated, time.perf_counter() - begin)


def _take_step(loop: Loop, train_step: TrainStep, batch: Any) -> None:
    done: list[tuple[TrainState, Metrics]] = []
    try:
        # In C as a whole, so that no Ctrl-C comes between the step, which ends the old state, and its result's name.
        done.extend(map(train_step, (loop.state,), (batch,)))
    except LabelError as error:
        raise LabelError(f"{str(error).rstrip('.')}, at step {loop.step + 1} (epoch {loop.epoch + 1}).") from None
    except KeyboardInterrupt as error:
        newest = done[0] if done else getattr(error, "newest", None)
        if newest is not None:
            loop.state = newest[0]
            loop.advance(newest[1], batch)
        raise
    loop.state = done[0][0]  # before any call: it could be interrupted at its beginning
    loop.advance(done[0][1], batch)


def _keep(given: TrainState, newest: TrainState) -> None:
    """Make the state that `fit` was given the newest: its own memory was given away, and nobody else has the newest."""
    for field in dataclasses.fields(given):
        object.__setattr__(given, field.name, getattr(newest, field.name))


def _epoch_batches(train_batches: Batches, loop: Loop, convert: Callable[[Any], Any]) -> Iterable[Any]:
    epoch, start = loop.epoch, loop.batch
    if callable(train_batches):
        return map(convert, train_batches(epoch, start) if start else train_batches(epoch))
    return map(convert, itertools.islice(train_batches, start, None))
