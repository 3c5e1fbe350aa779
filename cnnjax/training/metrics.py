"""Metrics as sums, so that a short last batch weighs what it holds: sum, count, divide last."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cnnjax.errors import CnnjaxError
from cnnjax.training.losses import class_numbers


class NonFiniteError(CnnjaxError, FloatingPointError):
    """The loss, or what a step made of the parameters, became NaN or infinite."""


class Metrics(struct.PyTreeNode):
    """Hold the sums of some examples' metrics; add two to join them, read the properties for the averages.

    Args:
      loss_sum: Sum of the examples' losses, float.
      top1_count: Examples whose label has the greatest logit.
      top5_count: Examples whose label is among the five greatest logits.
      count: Examples.
      confusion: Counts `[K, K]`, row the label and column the prediction, or None when it was not asked for.
      nonfinite: Training steps whose loss, gradients or results were not all finite; None in evaluation. Such a step
        that was skipped counts no examples.
    """

    loss_sum: Any
    top1_count: Any
    top5_count: Any
    count: Any
    confusion: Any = None
    nonfinite: Any = None

    def __add__(self, other: "Metrics") -> "Metrics":
        return jax.tree.map(lambda a, b: a + b, self, other)

    @property
    def loss(self) -> float:
        """Mean loss, nats."""
        return float(self.loss_sum) / self.examples

    @property
    def accuracy(self) -> float:
        """Share of examples whose label has the greatest logit, in [0, 1]."""
        return int(self.top1_count) / self.examples

    @property
    def top5(self) -> float:
        """Share of examples whose label is among the five greatest logits, in [0, 1]."""
        return int(self.top5_count) / self.examples

    @property
    def examples(self) -> int:
        """Number of examples; an average over none is an error, not a zero."""
        if not int(self.count):
            raise ValueError("Metrics: expected at least one example, got none. Check that the split is not empty.")
        return int(self.count)

    @property
    def per_class_accuracy(self) -> np.ndarray:
        """Share of each class's examples that were recognised, `[K]`; NaN for a class without examples."""
        if self.confusion is None:
            raise ValueError("Metrics: no confusion matrix was counted. Use make_eval_step(confusion=True).")
        confusion = np.array(self.confusion, np.float64)
        totals = confusion.sum(axis=1)
        return np.divide(confusion.diagonal(), totals, out=np.full(len(totals), np.nan), where=totals > 0)

    def compute(self) -> dict[str, float]:
        """Return the averages as plain numbers: loss, accuracy, top5."""
        return {"loss": self.loss, "accuracy": self.accuracy, "top5": self.top5}

    def to_host(self) -> "Metrics":
        """Return the sums in NumPy's 64-bit types, in which adding many batches loses nothing."""
        return jax.tree.map(_to_host, jax.device_get(self))


def _to_host(value: np.ndarray) -> np.ndarray:
    return np.array(value, np.float64 if np.asarray(value).dtype.kind == "f" else np.int64)


def classification_metrics(
    logits: jax.Array, labels: jax.Array, losses: jax.Array, mask: jax.Array | None = None, *, confusion: bool = False
) -> Metrics:
    """Count a batch's metrics over the examples that the mask keeps.

    Equal logits rank in class order, as in `argmax`; an example with a NaN logit counts as wrong.

    Args:
      logits: Float, `[N, K]`.
      labels: Class numbers of any integer type, `[N]`.
      losses: Float, `[N]`.
      mask: bool, `[N]`; None keeps every example.
      confusion: Whether to count the confusion matrix too, `K * K` integers.
    Returns:
      The sums.
    """
    labels, num_classes = class_numbers(labels), logits.shape[-1]
    if mask is None:
        mask = jnp.ones(labels.shape, bool)
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1, mode="fill", fill_value=jnp.nan)
    earlier = jnp.arange(num_classes)[None, :] < labels[:, None]
    rank = jnp.sum((logits > own) | ((logits == own) & earlier), axis=-1)
    sound = mask & (labels >= 0) & (labels < num_classes) & ~jnp.isnan(logits).any(axis=-1)
    matrix = None
    if confusion:
        cells = jnp.where(sound, labels * num_classes + jnp.argmax(logits, axis=-1), num_classes**2)
        matrix = jnp.zeros(num_classes**2, jnp.int32).at[cells].add(1, mode="drop").reshape(num_classes, num_classes)
    return Metrics(
        loss_sum=jnp.sum(jnp.where(mask, losses, 0.0)),
        top1_count=jnp.sum(sound & (rank < 1), dtype=jnp.int32),
        top5_count=jnp.sum(sound & (rank < 5), dtype=jnp.int32),
        count=jnp.sum(mask, dtype=jnp.int32),
        confusion=matrix,
    )
