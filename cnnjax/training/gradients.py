"""From a batch to gradients: in one piece or in micro-batches, with or without recomputation."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax import jaxpr
from cnnjax.batch import Batch
from cnnjax.training.losses import Loss, guarded
from cnnjax.training.metrics import Metrics, classification_metrics
from cnnjax.training.state import TrainState

Objective = Callable[..., tuple[jax.Array, tuple[Any, Metrics]]]


def make_objective(state: TrainState, loss: Loss, aux_weight: float) -> Objective:
    """Return `(params, batch_stats, batch, count, key) -> (objective, (batch_stats, metrics))`.

    The objective is the sum of the unmasked examples' losses divided by `count`, so that the objectives of a batch's
    parts add up to the batch's.
    """

    def objective(params: Any, batch_stats: Any, batch: Batch, count: Any, key: jax.Array) -> Any:
        variables = {"params": params, "batch_stats": batch_stats} if batch_stats else {"params": params}
        logits, updates = state.apply_fn(
            variables, batch.image, train=True, rngs={"dropout": key}, mutable=["batch_stats", "intermediates"]
        )
        losses = _losses(loss, logits, batch)
        total = _masked_sum(losses, batch.mask)
        for aux_logits in _auxiliary_logits(updates):
            total += aux_weight * _masked_sum(_losses(loss, aux_logits, batch), batch.mask)
        metrics = classification_metrics(logits, batch.label, losses, batch.mask)
        return total / count, (updates.get("batch_stats", batch_stats), metrics)

    return objective


def compute_gradients(
    objective: Objective, state: TrainState, batch: Batch, key: jax.Array, *, accumulate: int = 1, remat: bool = False
) -> tuple[Any, Any, Metrics]:
    """Return the gradients of a batch's mean loss, the new running statistics and the metrics."""
    if remat:
        objective = jax.checkpoint(objective, policy=lambda primitive, *_, **__: jaxpr.is_dear(primitive))
    gradient = jax.grad(objective, has_aux=True)
    examples = len(batch.image)
    count = examples if batch.mask is None else jnp.maximum(jnp.sum(batch.mask), 1)
    if accumulate == 1:
        gradients, (batch_stats, metrics) = gradient(state.params, state.batch_stats, batch, count, key)
        return gradients, batch_stats, metrics
    if examples % accumulate:
        raise ValueError(
            f"train_step: expected a batch that {accumulate} micro-batches divide evenly, got {examples} examples. "
            "Change the batch size or accumulate."
        )

    def add(carry: Any, part: tuple[jax.Array, Batch]) -> Any:
        gradients, batch_stats = carry
        number, micro = part
        more, (batch_stats, metrics) = gradient(
            state.params, batch_stats, micro, count, jax.random.fold_in(key, number)
        )
        return (jax.tree.map(jnp.add, gradients, more), batch_stats), metrics

    start = (jax.tree.map(jnp.zeros_like, state.params), state.batch_stats)
    parts = (jnp.arange(accumulate), jax.tree.map(lambda x: _divide(x, examples, accumulate), batch))
    (gradients, batch_stats), metrics = jax.lax.scan(add, start, parts)
    return gradients, batch_stats, jax.tree.map(lambda sums: jnp.sum(sums, axis=0, dtype=sums.dtype), metrics)


def _divide(x: jax.Array, examples: int, parts: int) -> jax.Array:
    """Return `[N, ...]` as `[parts, N / parts, ...]`, what is no example's own repeated.

    Every part takes each `parts`-th example: a batch that lies on several devices then stays where it is.
    """
    if x.ndim and x.shape[0] == examples:
        return jnp.moveaxis(x.reshape(examples // parts, parts, *x.shape[1:]), 1, 0)
    return jnp.broadcast_to(x, (parts, *x.shape))


def _losses(loss: Loss, logits: jax.Array, batch: Batch) -> jax.Array:
    if batch.mixed_label is None or batch.mix_weight is None:
        return guarded(loss, logits, batch.label)
    own, other = (guarded(loss, logits, labels) for labels in (batch.label, batch.mixed_label))
    return batch.mix_weight * own + (1 - batch.mix_weight) * other


def _masked_sum(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    return jnp.sum(values if mask is None else jnp.where(mask, values, 0.0))


def has_auxiliary_heads(state: TrainState, images: jax.ShapeDtypeStruct) -> bool:
    """Return whether the state's model sows auxiliary logits in training."""
    options = {"train": True, "rngs": {"dropout": state.key}, "mutable": ["batch_stats", "intermediates"]}
    return bool(_auxiliary_logits(jax.eval_shape(lambda s, x: s.apply_fn(s.variables, x, **options)[1], state, images)))


def _auxiliary_logits(updates: Mapping[str, Any]) -> list[jax.Array]:
    """Return what the model sowed under names that begin with `aux_logits`, wherever in the tree."""
    flat, _ = jax.tree_util.tree_flatten_with_path(updates.get("intermediates", {}))
    return [
        leaf
        for path, leaf in flat
        if any(isinstance(k, jax.tree_util.DictKey) and str(k.key).startswith("aux_logits") for k in path)
    ]
