"""The training step and the evaluation step: pure functions of a state and a batch, compiled once."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnnjax.batch import Batch
from cnnjax.training.losses import softmax_cross_entropy
from cnnjax.training.metrics import Metrics, classification_metrics
from cnnjax.training.state import TrainState

Loss = Callable[[jax.Array, jax.Array], jax.Array]
TrainStep = Callable[[TrainState, Any], tuple[TrainState, Metrics]]
EvalStep = Callable[[TrainState, Any], Metrics]


def make_train_step(
    *,
    loss: Loss = softmax_cross_entropy,
    augment: Callable[[Batch, jax.Array], Batch] | None = None,
    aux_weight: float = 0.3,
) -> TrainStep:
    """Return a jitted `(state, batch) -> (state, Metrics)` that takes one optimizer step.

    The objective is the mean of `loss` over the batch's unmasked examples, plus `aux_weight` times the same mean for
    each auxiliary head, which a model sows as `aux_logits...` into `intermediates`. The key of augmentation and
    dropout is the state's, with the step's number folded in, so that a resumed run draws what an uninterrupted one
    draws. The incoming state is donated: use the one that comes back.

    Args:
      loss: `(logits [N, K], labels [N]) -> losses [N]`.
      augment: `(batch, key) -> batch`, a pure function that runs inside the step.
      aux_weight: Weight of each auxiliary head's loss.
    Returns:
      The step. Its metrics are those before the update, without the auxiliary heads.
    """

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        batch = _as_batch(batch)
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        if augment is not None:
            batch = augment(batch, augment_key)

        def objective(params: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Any]]:
            logits, updates = state.apply_fn(
                {**state.variables, "params": params},
                batch.image,
                train=True,
                rngs={"dropout": dropout_key},
                mutable=["batch_stats", "intermediates"],
            )
            losses = loss(logits, batch.label)
            total = _masked_mean(losses, batch.mask)
            for aux_logits in _auxiliary_logits(updates):
                total += aux_weight * _masked_mean(loss(aux_logits, batch.label), batch.mask)
            return total, (logits, losses, updates.get("batch_stats", state.batch_stats))

        gradients, (logits, losses, batch_stats) = jax.grad(objective, has_aux=True)(state.params)
        updates, opt_state = state.tx.update(gradients, state.opt_state, state.params)
        new_state = state.replace(
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
            step=state.step + 1,
        )
        return new_state, classification_metrics(logits, batch.label, losses, batch.mask)

    return jax.jit(train_step, donate_argnums=0)


def make_eval_step(*, loss: Loss = softmax_cross_entropy, confusion: bool = False) -> EvalStep:
    """Return a jitted `(state, batch) -> Metrics` that counts the batch's unmasked examples.

    Args:
      loss: `(logits [N, K], labels [N]) -> losses [N]`.
      confusion: Whether to count the confusion matrix too.
    Returns:
      The step; the state is left as it is.
    """

    def eval_step(state: TrainState, batch: Any) -> Metrics:
        batch = _as_batch(batch)
        logits = state.apply_fn(state.variables, batch.image, train=False)
        return classification_metrics(logits, batch.label, loss(logits, batch.label), batch.mask, confusion=confusion)

    return jax.jit(eval_step)


def _as_batch(batch: Any) -> Batch:
    """Take a `Batch`, or a mapping with its fields, as tfds and Grain yield them."""
    if isinstance(batch, Mapping):
        batch = Batch(image=batch["image"], label=batch["label"], mask=batch.get("mask"))
    if not jnp.issubdtype(batch.image.dtype, jnp.floating):
        raise TypeError(
            f"train_step: expected float images, got {batch.image.dtype}. Scale them first, for example with "
            "cnnjax.data.batches, or images / 255."
        )
    return batch


def _masked_mean(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    if mask is None:
        return jnp.mean(values)
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def _auxiliary_logits(updates: Mapping[str, Any]) -> list[jax.Array]:
    """Return what the model sowed under names that begin with `aux_logits`, wherever in the tree."""
    flat, _ = jax.tree_util.tree_flatten_with_path(updates.get("intermediates", {}))
    return [
        leaf
        for path, leaf in flat
        if any(isinstance(k, jax.tree_util.DictKey) and str(k.key).startswith("aux_logits") for k in path)
    ]


train_step = make_train_step()
eval_step = make_eval_step()
