import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from cnnjax.training import Metrics, classification_metrics

# Few shapes, because each is a compile; the values are what is drawn.
shapes = st.sampled_from([(1, 2), (40, 9), (7, 4)])
jitted = jax.jit(classification_metrics, static_argnames="confusion")


@given(shapes, st.integers(0, 2**32 - 1))
def test_equals_a_stable_sort_and_sklearn(shape, seed):
    examples, classes = shape
    rng = np.random.default_rng(seed)
    logits = rng.integers(-2, 3, (examples, classes)).astype(np.float32)  # many ties
    labels = rng.integers(0, classes, examples)
    losses = rng.normal(size=examples).astype(np.float32)
    mask = rng.random(examples) < 0.7
    found = jitted(logits, labels, losses, mask, confusion=True)
    order = np.argsort(-logits, axis=-1, kind="stable")
    assert found.count == mask.sum()
    assert found.top1_count == (order[:, 0] == labels)[mask].sum()
    assert found.top5_count == (order[:, :5] == labels[:, None]).any(-1)[mask].sum()
    np.testing.assert_allclose(found.loss_sum, losses[mask].sum(), rtol=1e-5, atol=1e-5)
    expected = np.zeros((classes, classes), int)
    if mask.any():
        expected = confusion_matrix(labels[mask], order[mask, 0], labels=np.arange(classes))
    np.testing.assert_array_equal(found.confusion, expected)


def test_equal_logits_and_nan_are_no_success():
    labels = jnp.array([3, 0])
    flat = classification_metrics(jnp.zeros((2, 10)), labels, jnp.zeros(2))
    assert (flat.top1_count, flat.top5_count) == (1, 2)  # label 0 is the first of the tie, label 3 among five
    nan = jnp.zeros((2, 10)).at[:, 7].set(jnp.nan)
    broken = classification_metrics(nan, labels, jnp.zeros(2))
    assert (broken.top1_count, broken.top5_count, broken.count) == (0, 0, 2)


def test_masked_rows_count_for_nothing_whatever_they_hold():
    logits = jnp.array([[1.0, 2.0], [jnp.nan, jnp.inf]])
    mask = jnp.array([True, False])
    found = classification_metrics(logits, jnp.array([1, -7]), jnp.array([0.5, jnp.nan]), mask, confusion=True)
    assert (found.loss, found.accuracy, found.examples) == (0.5, 1.0, 1)
    np.testing.assert_array_equal(found.confusion, [[0, 0], [0, 1]])


def test_sums_of_unequal_batches_weigh_by_examples():
    whole, part = (Metrics(loss_sum=s, top1_count=t, top5_count=t, count=n) for s, t, n in ((20.0, 9, 10), (9.0, 0, 1)))
    joined = whole + part
    assert joined.compute() == {"loss": 29 / 11, "accuracy": 9 / 11, "top5": 9 / 11}


def test_an_average_over_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one example"):
        _ = Metrics(loss_sum=0.0, top1_count=0, top5_count=0, count=0).accuracy


def test_per_class_accuracy_is_nan_for_a_class_without_examples():
    metrics = Metrics(0.0, 3, 3, 4, confusion=np.array([[3, 1, 0], [0, 0, 0], [0, 0, 2]]))
    np.testing.assert_array_equal(metrics.per_class_accuracy, [0.75, np.nan, 1.0])


def test_host_sums_keep_what_float32_would_drop():
    big = Metrics(jnp.float32(2**24), jnp.int32(2**31 - 1), jnp.int32(0), jnp.int32(1)).to_host()
    small = Metrics(jnp.float32(1), jnp.int32(1), jnp.int32(0), jnp.int32(1)).to_host()
    joined = big + small
    assert joined.loss_sum == 2**24 + 1
    assert joined.top1_count == 2**31
    assert jax.tree.leaves(joined)[0].dtype == np.float64
