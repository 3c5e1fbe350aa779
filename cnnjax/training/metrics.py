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
      rank_counts: How many labels have the greatest logit, the second, ..., `[K]`; counted with the confusion matrix.
      scores: Of each batch, where they were asked for: logits, labels and mask.

    Those of accuracy are None where labels are not class numbers.
    """

    loss_sum: Any
    top1_count: Any = None
    top5_count: Any = None
    count: Any = 0
    confusion: Any = None
    nonfinite: Any = None
    rank_counts: Any = None
    scores: Any = None

    def __add__(self, other: "Metrics") -> "Metrics":
        added = jax.tree.map(lambda a, b: a + b, self.replace(scores=None), other.replace(scores=None))
        return added if self.scores is None else added.replace(scores=[*self.scores, *other.scores])

    @property
    def loss(self) -> float:
        """Mean loss, nats."""
        return float(self.loss_sum) / self.examples

    @property
    def accuracy(self) -> float:
        """Share of examples whose label has the greatest logit, in [0, 1]."""
        return int(self._counted(self.top1_count)) / self.examples

    @property
    def top5(self) -> float:
        """Share of examples whose label is among the five greatest logits, in [0, 1]."""
        return int(self._counted(self.top5_count)) / self.examples

    @property
    def examples(self) -> int:
        """Number of examples; an average over none is an error, not a zero."""
        if not int(self.count):
            raise ValueError("Metrics: expected at least one example, got none. Check that the split is not empty.")
        return int(self.count)

    @property
    def per_class_accuracy(self) -> np.ndarray:
        """Share of each class's examples that were recognised, `[K]`; NaN for a class without examples."""
        return self.by_class[1]

    @property
    def by_class(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Precision, recall and F1 of each class, `[K]` each; see `precision_recall_f1`."""
        if self.confusion is None:
            raise ValueError("Metrics: no confusion matrix was counted. Use make_eval_step(confusion=True).")
        return precision_recall_f1(self.confusion)

    def top(self, k: int) -> float:
        """Return the share of examples whose label is among the `k` greatest logits, in [0, 1]."""
        if self.rank_counts is None or k < 1:
            raise ValueError(f"Metrics: expected k of at least 1 and make_eval_step(confusion=True), got k={k}.")
        return int(np.sum(self.rank_counts[:k])) / self.examples

    @property
    def mean_average_precision(self) -> float:
        """The mean over the classes of `average_precision`."""
        if self.scores is None:
            raise ValueError("Metrics: no scores were kept. Use make_eval_step(loss=..., scores=True).")
        rows = [(logits[mask], labels[mask]) for logits, labels, mask in self.scores]
        return float(np.nanmean(average_precision(*map(np.concatenate, zip(*rows)))))

    def compute(self) -> dict[str, float]:
        """Return the averages as plain numbers: loss, accuracy and top5, mean_average_precision with scores."""
        values = {"loss": self.loss}
        if self.top1_count is not None:
            values |= {"accuracy": self.accuracy, "top5": self.top5}
        return values if self.scores is None else {**values, "mean_average_precision": self.mean_average_precision}

    def to_host(self) -> "Metrics":
        """Return the sums in NumPy's 64-bit types, in which adding many batches loses nothing."""
        host = jax.device_get(self)
        return jax.tree.map(_to_host, host.replace(scores=None)).replace(scores=host.scores)

    def _counted(self, count: Any) -> Any:
        if count is None:
            raise ValueError("Metrics: no accuracy was counted, since the labels are not class numbers.")
        return count


def _to_host(value: np.ndarray) -> np.ndarray:
    return np.array(value, np.float64 if np.asarray(value).dtype.kind == "f" else np.int64)


def classification_metrics(
    logits: jax.Array,
    labels: jax.Array,
    losses: jax.Array,
    mask: jax.Array | None = None,
    *,
    confusion: bool = False,
    scores: bool = False,
) -> Metrics:
    """Count a batch's metrics over the examples that the mask keeps.

    Equal logits rank in class order, as in `argmax`; an example with a NaN logit counts as wrong.

    Args:
      logits: Float, `[N, K]`.
      labels: Class numbers of any integer type, `[N]`; or float, `[N]` or `[N, K]`, for which only losses are counted.
      losses: Float, `[N]`.
      mask: bool, `[N]`; None keeps every example.
      confusion: Whether to count the confusion matrix and the labels' ranks too, `K * K + K` integers.
      scores: Whether to keep logits and float labels `[N, K]`, for the mean average precision.
    Returns:
      The sums.
    """
    labels, num_classes = class_numbers(labels), logits.shape[-1]
    if mask is None:
        mask = jnp.ones(labels.shape[:1], bool)
    sums = Metrics(loss_sum=jnp.sum(jnp.where(mask, losses, 0.0)), count=jnp.sum(mask, dtype=jnp.int32))
    if scores:
        if labels.shape != logits.shape:
            raise ValueError(f"scores: expected labels {logits.shape}, as the logits, got {labels.shape}.")
        sums = sums.replace(scores=[(logits, labels, mask)])
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        return sums
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1, mode="fill", fill_value=jnp.nan)
    earlier = jnp.arange(num_classes)[None, :] < labels[:, None]
    rank = jnp.sum((logits > own) | ((logits == own) & earlier), axis=-1)
    sound = mask & (labels >= 0) & (labels < num_classes) & ~jnp.isnan(logits).any(axis=-1)
    if confusion:
        cells = jnp.where(sound, labels * num_classes + jnp.argmax(logits, axis=-1), num_classes**2)
        matrix = jnp.zeros(num_classes**2, jnp.int32).at[cells].add(1, mode="drop").reshape(num_classes, num_classes)
        ranks = jnp.zeros(num_classes, jnp.int32).at[jnp.where(sound, rank, num_classes)].add(1, mode="drop")
        sums = sums.replace(confusion=matrix, rank_counts=ranks)
    return sums.replace(
        top1_count=jnp.sum(sound & (rank < 1), dtype=jnp.int32),
        top5_count=jnp.sum(sound & (rank < 5), dtype=jnp.int32),
    )


def precision_recall_f1(confusion: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each class's precision, recall and F1, `[K]` each; NaN where they are a share of nothing.

    Args:
      confusion: Counts `[K, K]`, row the label and column the prediction.
    Example:
      >>> [values.round(3).tolist() for values in precision_recall_f1([[3, 1], [2, 4]])]
      [[0.6, 0.8], [0.75, 0.667], [0.667, 0.727]]
    """
    confusion = np.array(confusion, np.float64)
    hits, labels, predictions = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)

    def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)

    return share(hits, predictions), share(hits, labels), share(2 * hits, labels + predictions)


def average_precision(scores: Any, labels: Any) -> np.ndarray:
    """Return each class's average precision: the sum over thresholds of precision times the recall that it adds.

    Args:
      scores: Logits or probabilities, `[N, K]`; equal ones are one threshold.
      labels: Which classes each example has, 1 or 0, `[N, K]`.
    Returns:
      float64, `[K]`; NaN for a class that no example has.
    Raises:
      ValueError: If the shapes differ, or a label is neither.
    Example:
      >>> average_precision([[0.9], [0.8], [0.1]], [[1], [0], [1]]).round(4).tolist()
      [0.8333]
    """
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    if scores.shape != labels.shape or scores.ndim != 2 or not np.isin(labels, (0, 1)).all():
        shapes = f"{scores.shape} and {labels.shape}"
        raise ValueError(f"average_precision: expected scores and labels of 0 and 1, both [N, K], got {shapes}.")
    found = np.full(scores.shape[1], np.nan)
    for k, (score, label) in enumerate(zip(scores.T, labels.T)):
        if not label.any():
            continue
        order = np.argsort(-score, kind="stable")
        last = np.append(np.diff(score[order]) != 0, True)  # of equal scores
        hits, taken = label[order].cumsum()[last], (np.arange(len(score)) + 1)[last]
        found[k] = np.sum(hits / taken * np.diff(hits, prepend=0)) / hits[-1]
    return found
