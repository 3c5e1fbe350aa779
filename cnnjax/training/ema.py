"""The moving average of a run's parameters and statistics, which often generalises better than the last of them."""

from typing import Any

import jax
import jax.numpy as jnp


def init(params: Any, batch_stats: Any) -> dict[str, Any]:
    """Return the average before the first step: copies of the values, and a counter at zero."""
    values = jax.tree.map(jnp.array, {"params": params, "batch_stats": batch_stats})
    return {**values, "count": jnp.zeros((), jnp.int32)}


def update(average: dict[str, Any], params: Any, batch_stats: Any, decay: float) -> dict[str, Any]:
    """Return the average after one more step.

    `average += (1 - d) * (value - average)` with `d = min(decay, (1 + t) / (10 + t))` in step t, from 0: early on, when
    there is little to average and the start means nothing, newer values weigh more.

    References:
      Szegedy et al., 2015, https://arxiv.org/abs/1512.00567, section 8, evaluates such averages; the rule for early
      steps is that of TensorFlow's ExponentialMovingAverage with `num_updates`.
    """
    count = average["count"].astype(jnp.float32)
    rest = 1 - jnp.minimum(decay, (1 + count) / (10 + count))

    def move(old: jax.Array, new: jax.Array) -> jax.Array:
        # What stands still, as frozen parameters do, keeps its bits: a minus zero too.
        return jnp.where(new == old, old, old + rest * (new - old)).astype(old.dtype)

    return {
        "params": jax.tree.map(move, average["params"], params),
        "batch_stats": jax.tree.map(move, average["batch_stats"], batch_stats),
        "count": average["count"] + 1,
    }
