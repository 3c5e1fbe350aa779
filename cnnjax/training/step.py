"""The training step and the evaluation step: pure functions of a state and a batch, compiled once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import cnnjax.training.ema as averages
from cnnjax.batch import Batch
from cnnjax.training.gradients import compute_gradients, make_objective
from cnnjax.training.inputs import as_batch, as_int32
from cnnjax.training.jitted import CheckedJit
from cnnjax.training.losses import Loss, guarded, softmax_cross_entropy
from cnnjax.training.metrics import Metrics, classification_metrics
from cnnjax.training.state import TrainState

TrainStep = Callable[[TrainState, Any], tuple[TrainState, Metrics]]
EvalStep = Callable[[TrainState, Any], Metrics]


def make_train_step(
    *,
    loss: Loss = softmax_cross_entropy,
    augment: Callable[[Batch, jax.Array], Batch] | None = None,
    aux_weight: float = 0.3,
    accumulate: int = 1,
    ema_decay: float | None = None,
    remat: bool = False,
    skip_nonfinite: bool = False,
) -> TrainStep:
    """Return a jitted `(state, batch) -> (state, Metrics)` that takes one optimizer step.

    The objective is the mean of `loss` over the batch's unmasked examples, plus `aux_weight` times the same mean for
    each auxiliary head, which a model sows as `aux_logits...` into `intermediates`; a mixed example's loss is that of
    its two labels, weighted by its share. Randomness is derived: dropout's key is the state's with the step's number
    folded in, and so is the augmentation's, unless the batch says which examples it holds; then each example's key
    comes from its place in the split and its epoch. A resumed run draws what an uninterrupted one draws. The incoming
    state is donated: use the one that comes back.

    Args:
      loss: `(logits [N, K], labels [N]) -> losses [N]`.
      augment: `(batch, key) -> batch`, a pure function that runs inside the step.
      aux_weight: Weight of each auxiliary head's loss.
      accumulate: Micro-batches a step; see `compute_gradients` for what batch norm then does.
      ema_decay: Decay of the moving averages of a state made with `ema=True`; see `ema.update`.
      remat: Compute cheap values again in the backward pass instead of keeping them.
      skip_nonfinite: Whether a step whose loss, gradients or results are not finite leaves everything but the step's
        number as it was, and counts none of its examples, instead of passing them on.
    Returns:
      The step. Its metrics are those before the update, without the auxiliary heads.
    """
    if accumulate < 1 or (ema_decay is not None and not 0 < ema_decay < 1):
        raise ValueError(
            f"make_train_step: expected accumulate >= 1 and ema_decay in (0, 1), got {accumulate} and {ema_decay}."
        )

    note: list[int] = []

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        """Take one step of the optimizer; the old state's memory is given to the new one.

        Args:
          state: The state, which must not be used again.
          batch: A `cnnjax.data.Batch`, or a mapping: `image` `[N, H, W, C]`, float, and `label` `[N]`, integer.
        Returns:
          The new state and the batch's `Metrics`.
        """
        batch = as_int32(as_batch(batch))
        if bool(state.ema) != (ema_decay is not None):
            raise ValueError(
                "train_step: expected make_train_step(ema_decay=...) together with create_state(ema=True), got one "
                "without the other."
            )
        batch, dropout_key = _prepare(state, batch, augment)
        objective = make_objective(state, _noting(loss, note), aux_weight)
        gradients, batch_stats, metrics = compute_gradients(
            objective, state, batch, dropout_key, accumulate=accumulate, remat=remat
        )
        updates, opt_state = state.tx.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        finite = jnp.isfinite(metrics.loss_sum) & _all_finite((gradients, params, batch_stats))
        finite &= _stays_finite(opt_state, state.opt_state)
        ema = state.ema if ema_decay is None else averages.update(state.ema, params, batch_stats, ema_decay)
        new = state.replace(params=params, batch_stats=batch_stats, opt_state=opt_state, ema=ema)
        metrics = metrics.replace(nonfinite=(~finite).astype(jnp.int32))
        if skip_nonfinite:
            new = jax.tree.map(lambda a, b: _choose(finite, a, b), new, state)
            metrics = _without_examples(metrics, finite)
        return new.replace(step=state.step + 1), metrics

    return CheckedJit(train_step, note, check_labels=not skip_nonfinite, donate_argnums=0)


def make_eval_step(
    *, loss: Loss = softmax_cross_entropy, confusion: bool = False, flip_tta: bool = False, scores: bool = False
) -> EvalStep:
    """Return a jitted `(state, batch) -> Metrics` that counts the batch's unmasked examples.

    A state with moving averages is evaluated with them.

    Args:
      loss: `(logits [N, K], labels [N]) -> losses [N]`.
      confusion: Whether to count the confusion matrix too: for precision, recall and F1 by class, and any top-k.
      flip_tta: Whether to look at each image and at its mirror image, and to take the mean of both logits.
      scores: Whether to keep logits and labels `[N, K]` of several classes an example, for the mean average precision.
    Returns:
      The step; the state is left as it is.
    """

    note: list[int] = []

    def eval_step(state: TrainState, batch: Any) -> Metrics:
        """Return the `Metrics` of a batch, a `cnnjax.data.Batch` or a mapping with `image` and `label`."""
        batch = as_int32(as_batch(batch))
        logits = compute_logits(state, batch.image, flip_tta=flip_tta)
        losses = guarded(_noting(loss, note), logits, batch.label)
        return classification_metrics(logits, batch.label, losses, batch.mask, confusion=confusion, scores=scores)

    return CheckedJit(eval_step, note)


def compute_logits(state: TrainState, images: jax.Array, *, flip_tta: bool = False) -> jax.Array:
    """Return the logits of images as evaluation sees them: with the moving averages, if the state has any.

    Args:
      state: The state.
      images: Float, `[N, H, W, C]`.
      flip_tta: Whether to take the mean over each image and its mirror image.
    Returns:
      Logits, `[N, K]`.
    """
    variables = state.averaged.variables
    logits = state.apply_fn(variables, images, train=False)
    if not flip_tta:
        return logits
    return (logits + state.apply_fn(variables, images[:, :, ::-1], train=False)) / 2


def _noting(loss: Loss, note: list[int]) -> Loss:
    """Return the loss, which notes how many classes the model has when it is traced: first, before auxiliary heads."""

    def noting(logits: jax.Array, labels: jax.Array) -> jax.Array:
        note.append(logits.shape[-1])
        return loss(logits, labels)

    return noting


def _prepare(state: TrainState, batch: Batch, augment: Any) -> tuple[Batch, jax.Array]:
    """Return the augmented batch and the key of dropout."""
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(state.key, state.step))
    if augment is not None:
        # Examples that are known have keys of their own, whichever step they come in.
        batch = augment(batch, augment_key if batch.index is None else jax.random.fold_in(state.key, _AUGMENT))
    return batch, dropout_key


# Folded in where a step's number would be, and greater than any.
_AUGMENT = 2**32 - 1


def _all_finite(tree: Any) -> jax.Array:
    """Return whether every number is finite. Not by a maximum: XLA for the CPU loses a NaN in some of those."""
    found = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.stack(found).all() if found else jnp.array(True)


def _stays_finite(new: Any, old: Any) -> jax.Array:
    """Return whether every number is finite that was, as the squares in Adam's state overflow before its gradients do.

    An optimizer may begin with an infinity: the best loss so far, for example.
    """
    return _all_finite(jax.tree.map(lambda n, o: jnp.where(jnp.isfinite(o), n, jnp.zeros_like(n)), new, old))


def _choose(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jnp.where(condition, yes, no) if yes is not no else yes


def _without_examples(metrics: Metrics, finite: jax.Array) -> Metrics:
    sums = {name: jnp.where(finite, value, 0) for name, value in vars(metrics).items() if value is not None}
    return metrics.replace(**{**sums, "nonfinite": metrics.nonfinite})


train_step = make_train_step()
eval_step = make_eval_step()
