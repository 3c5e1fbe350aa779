"""Losses, one value an example, and the class numbers that they take; the caller masks and reduces."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax.errors import CnnjaxError

Loss = Callable[[jax.Array, jax.Array], jax.Array]


class LabelError(CnnjaxError, ValueError):
    """Labels that are not among the model's classes."""


def class_numbers(labels: jax.Array) -> jax.Array:
    """Return integer labels as int32, and others as they are; a number that int32 can't hold stays out of every range.

    Computing with labels of a smaller type would overflow where it meets the number of classes.

    Args:
      labels: Class numbers of any integer type.
    Example:
      >>> class_numbers(jnp.array([200], jnp.uint8)).dtype
      dtype('int32')
    """
    if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.dtype == jnp.int32:
        return labels
    if labels.dtype.itemsize >= 4:
        # NumPy's own function for its arrays: JAX would cut 64 bits down to 32 first.
        low = -1 if jnp.issubdtype(labels.dtype, jnp.signedinteger) else 0
        library: Any = np if isinstance(labels, np.ndarray) else jnp
        labels = library.clip(labels, low, 2**31 - 1)
    return labels.astype(jnp.int32)


def guarded(loss: Loss, logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the losses, NaN where a class number is none of the model's, whatever the loss makes of such a label.

    Args:
      loss: `(logits [N, K], labels [N]) -> losses [N]`.
      logits: `[N, K]`.
      labels: `[N]`, int32.
    """
    losses = loss(logits, labels)
    if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer) or losses.shape != labels.shape:
        return losses
    return jnp.where((labels >= 0) & (labels < logits.shape[-1]), losses, jnp.nan)


def label_fault(labels: Any, num_classes: int, mask: Any = None) -> str | None:
    """Return what is wrong with labels that are not all among the classes, else None.

    Args:
      labels: Integers, `[N]`, on the host.
      num_classes: Classes of the model.
      mask: Which of them count, bool, `[N]`; None for all.
    Example:
      >>> label_fault(np.array([3, 14]), 10)
      'labels reach 14; the model has 10 classes'
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.size:
        return None
    if labels.min() >= 0 and labels.max() < num_classes:
        return None
    if mask is not None:
        return label_fault(labels[np.asarray(mask, bool)], num_classes)
    low, high = int(labels.min()), int(labels.max())
    if high < num_classes:
        return f"labels go down to {low}; the model has {num_classes} classes, counted from 0"
    hint = ", counted from 0" if high == num_classes and low > 0 else ""
    return f"labels reach {high}; the model has {num_classes} classes{hint}"


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
    labels, num_classes = class_numbers(labels), logits.shape[-1]
    logits = logits.astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if label_smoothing:
        uniform = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
        losses = (1.0 - label_smoothing) * losses + label_smoothing * uniform
    in_range = (labels >= 0) & (labels < num_classes)
    return jnp.where(in_range, losses, jnp.nan)


def sigmoid_cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Return the mean over the classes of each example's binary cross-entropies, each class a question of its own.

    Args:
      logits: Unnormalised, float, `[N, K]`; computed in float32.
      labels: Which classes an example has, float in [0, 1], `[N, K]`; or class numbers, integer, `[N]`, for the one.
      label_smoothing: s, in [0, 1): targets t become `t (1 - s) + s / 2`.
    Returns:
      Losses in nats, float32, `[N]`.
    Raises:
      ValueError: If the shapes do not fit.
      TypeError: If the labels are integers `[N, K]`.
    Example:
      >>> float(sigmoid_cross_entropy(jnp.zeros((1, 4)), jnp.array([[0.0, 1.0, 1.0, 0.0]]))[0])
      0.6931471824645996
    """
    targets = _targets("sigmoid_cross_entropy", logits, labels)
    targets = targets * (1.0 - label_smoothing) + label_smoothing / 2
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), targets), axis=-1)


def mean_squared_error(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the mean over each example's outputs of the squared difference from what they should be.

    Args:
      logits: The net's outputs, float, `[N, K]`; computed in float32.
      labels: What they should be, float, `[N, K]`, or `[N]` where K is 1; or class numbers, integer, `[N]`: then one at
        the class and zero elsewhere.
    Returns:
      Losses, float32, `[N]`.
    Raises:
      ValueError: If the shapes do not fit.
      TypeError: If the labels are integers where K is 1, or integers `[N, K]`.
    References:
      Hui and Belkin, 2020, https://arxiv.org/abs/2006.07322, for classification.
    """
    if logits.ndim == 2 and logits.shape[-1] == 1 and not jnp.issubdtype(labels.dtype, jnp.integer):
        labels = labels.reshape(labels.shape[0], -1)
    elif logits.shape[-1] == 1:
        raise TypeError(f"mean_squared_error: expected float labels, got {labels.dtype}. Use labels.astype('float32').")
    targets = _targets("mean_squared_error", logits, labels)
    return jnp.mean((logits.astype(jnp.float32) - targets) ** 2, axis=-1)


LOSSES: dict[str, Callable[..., jax.Array]] = {
    "softmax": softmax_cross_entropy,
    "sigmoid": sigmoid_cross_entropy,
    "mse": mean_squared_error,
}


def balanced_class_weights(labels: Any, num_classes: int) -> np.ndarray:
    """Return a weight for each class by which all classes count alike, `examples / (classes * the class's examples)`.

    Args:
      labels: Class numbers, integer, `[N]`, on the host.
      num_classes: K.
    Returns:
      Weights, float32, `[K]`; 0 for a class without examples, which is not counted among the classes.
    Example:
      >>> balanced_class_weights(np.array([0, 0, 0, 0, 2]), 3).tolist()
      [0.625, 0.0, 2.5]
    """
    labels = np.asarray(labels)
    if fault := label_fault(labels, num_classes):
        raise LabelError(f"balanced_class_weights: {fault}.")
    counts = np.bincount(labels, minlength=num_classes)
    weights = np.divide(len(labels), np.count_nonzero(counts) * counts, out=np.zeros(num_classes), where=counts > 0)
    return weights.astype(np.float32)


def class_weighted(loss: Loss, weights: Any) -> Loss:
    """Return a loss of class numbers that counts each example by its class's weight.

    Args:
      loss: `(logits [N, K], labels [N]) -> losses [N]`.
      weights: One a class, `[K]`, such as those of `balanced_class_weights`.
    """

    def weighted(logits: jax.Array, labels: jax.Array) -> jax.Array:
        if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer) or len(weights) != logits.shape[-1]:
            raise ValueError(
                f"class_weighted: expected class numbers [N] and {logits.shape[-1]} weights, got labels "
                f"{labels.dtype} {labels.shape} and {len(weights)} weights."
            )
        return loss(logits, labels) * jnp.asarray(weights, jnp.float32).at[class_numbers(labels)].get(mode="clip")

    return weighted


def _targets(where: str, logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return float labels as they are, and class numbers as rows of one 1."""
    whole = jnp.issubdtype(labels.dtype, jnp.integer)
    if logits.ndim != 2 or labels.shape != (logits.shape[:1] if whole and labels.ndim == 1 else logits.shape):
        shapes = f"{logits.shape} and {labels.shape}"
        raise ValueError(
            f"{where}: expected logits [N, K] and labels [N, K], float, or [N], integer, got {shapes}, {labels.dtype}."
        )
    if whole and labels.ndim == 2:
        raise TypeError(f"{where}: expected float labels [N, K], got {labels.dtype}. Use labels.astype('float32').")
    return jax.nn.one_hot(class_numbers(labels), logits.shape[-1]) if whole else labels.astype(jnp.float32)
