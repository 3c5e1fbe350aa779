"""Losses, one value an example; the caller masks and reduces."""

import jax
import jax.numpy as jnp
import optax


def softmax_cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Return the cross-entropy of each example's softmax against its class number.

    `-sum_k t_k log softmax(logits)_k`, where t is one at the label, or, smoothed by s, `1 - s + s/K` there and `s/K`
    elsewhere.

    Args:
      logits: Unnormalised, float, `[N, K]`; computed in float32.
      labels: Class numbers, integer, `[N]`.
      label_smoothing: s, in [0, 1).
    Returns:
      Losses in nats, float32, `[N]`; NaN where the label lies outside `[0, K)`, which optax alone would wrap for a
      negative label.
    Raises:
      ValueError: If the shapes do not fit.
      TypeError: If the labels are not integers.
    Example:
      >>> float(softmax_cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))[0])
      1.3862943649291992

    References:
      Szegedy et al., 2015, https://arxiv.org/abs/1512.00567, section 7 (label smoothing).
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        hint = "Pass class numbers, not one-hot rows." if labels.ndim > 1 else "Pass one class number an example."
        shapes = f"{logits.shape} and {labels.shape}"
        raise ValueError(f"softmax_cross_entropy: expected logits [N, K] and labels [N], got {shapes}. {hint}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"softmax_cross_entropy: expected integer labels, got {labels.dtype}. Use labels.astype('int32')."
        )
    num_classes = logits.shape[-1]
    logits = logits.astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if label_smoothing:
        uniform = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
        losses = (1.0 - label_smoothing) * losses + label_smoothing * uniform
    in_range = (labels >= 0) & (labels < num_classes)
    return jnp.where(in_range, losses, jnp.nan)
