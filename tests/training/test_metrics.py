import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support

from cnnjax.training import (
    Metrics,
    average_precision,
    classification_metrics,
    compute_logits,
    create_state,
    evaluate,
    fit,
    make_eval_step,
    make_train_step,
    mean_squared_error,
    sigmoid_cross_entropy,
)
from tests.training.nets import LinearNet

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


def test_precision_recall_f1_and_top_k_are_scikit_learns():
    rng = np.random.default_rng(5)
    labels, logits = rng.integers(0, 6, 300), rng.normal(size=(300, 7)).astype(np.float32)
    logits[:, 5] -= 9  # never predicted, and class 6 never a label
    mask = rng.uniform(size=300) < 0.8
    metrics = classification_metrics(
        jnp.asarray(logits), jnp.asarray(labels, jnp.int32), jnp.zeros(300), jnp.asarray(mask), confusion=True
    )
    host = metrics.to_host() + metrics.to_host()
    options = {"labels": range(7), "zero_division": np.nan}
    expected = precision_recall_fscore_support(labels[mask], logits[mask].argmax(1), **options)[:3]
    np.testing.assert_allclose(host.by_class[0], expected[0])
    np.testing.assert_allclose(host.by_class[1], expected[1])
    np.testing.assert_allclose(host.by_class[2][:5], expected[2][:5])
    for k in (1, 2, 3, 5, 7, 9):
        share = np.mean([label in np.argsort(-row)[:k] for label, row in zip(labels[mask], logits[mask])])
        assert host.top(k) == pytest.approx(share)
    assert (host.top(1), host.top(5)) == (host.accuracy, host.top5)
    with pytest.raises(ValueError, match=r"make_eval_step\(confusion=True\)"):
        host.replace(rank_counts=None).top(3)


def test_average_precision_is_scikit_learns():
    rng = np.random.default_rng(6)
    scores, labels = rng.normal(size=(200, 4)).round(1), (rng.uniform(size=(200, 4)) < 0.3).astype(float)  # with ties
    expected = [average_precision_score(labels[:, k], scores[:, k]) for k in range(4)]
    np.testing.assert_allclose(average_precision(scores, labels), expected)
    labels[:, 2] = 0
    assert np.isnan(average_precision(scores, labels)).tolist() == [False, False, True, False]
    with pytest.raises(ValueError, match="labels of 0 and 1"):
        average_precision(scores, labels + 0.5)


def test_several_classes_an_example_train_and_are_judged():
    rng = np.random.default_rng(7)
    images = rng.normal(size=(50, 3, 3, 1)).astype(np.float32)
    labels = (images.reshape(50, 9)[:, :4] > 0.3).astype(np.float32)
    batches = [(images[p : p + 20], labels[p : p + 20]) for p in range(0, 50, 20)]
    state = create_state(LinearNet(), optax.adam(0.05), (3, 3, 1), key=jax.random.key(0))
    judge = make_eval_step(loss=sigmoid_cross_entropy, scores=True)
    state, history = fit(
        state, batches, batches, epochs=30, train_step=make_train_step(loss=sigmoid_cross_entropy), eval_step=judge
    )
    logits = np.asarray(compute_logits(state, jnp.asarray(images)))
    expected = average_precision_score(labels, logits, average="macro")
    assert history[-1]["val_mean_average_precision"] == pytest.approx(expected)
    assert expected > 0.9 > history[0]["val_mean_average_precision"]
    assert "train_accuracy" not in history[0]
    with pytest.raises(ValueError, match="no accuracy was counted, since the labels are not class numbers"):
        _ = evaluate(state, batches, eval_step=judge).accuracy
    with pytest.raises(ValueError, match=r"scores: expected labels \(20, 4\)"):
        judge(state, {"image": images[:20], "label": np.zeros(20, int)})


def test_numbers_are_regressed_on():
    rng = np.random.default_rng(8)
    images = rng.normal(size=(40, 3, 3, 1)).astype(np.float32)
    targets = images.reshape(40, 9) @ rng.normal(size=9).astype(np.float32) + 2
    state = create_state(LinearNet(num_classes=1), optax.adam(0.1), (3, 3, 1), key=jax.random.key(0))
    options = {
        "train_step": make_train_step(loss=mean_squared_error),
        "eval_step": make_eval_step(loss=mean_squared_error),
    }
    state, history = fit(state, [(images, targets)], [(images, targets)], epochs=200, progress=False, **options)
    found = np.asarray(compute_logits(state, jnp.asarray(images)))[:, 0]
    assert history[-1]["val_loss"] == pytest.approx(np.mean((found - targets) ** 2), rel=1e-3, abs=1e-6)
    assert history[-1]["val_loss"] < 0.05 < history[0]["val_loss"]
