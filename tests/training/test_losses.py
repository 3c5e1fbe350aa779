import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from cnnjax.training import (
    LabelError,
    balanced_class_weights,
    class_weighted,
    mean_squared_error,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
)
from tests.optional import torch

# Few shapes, because each is a compile; the values are what is drawn.
shapes = st.sampled_from([(1, 1), (1, 12), (6, 3)])
jitted = jax.jit(softmax_cross_entropy, static_argnames="label_smoothing")


@given(shapes, st.sampled_from([0.0, 0.1, 0.9]), st.integers(0, 2**32 - 1))
def test_equals_scipy_in_float64(shape, smoothing, seed):
    examples, classes = shape
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(examples, classes)) * 10
    labels = rng.integers(0, classes, examples)
    targets = np.eye(classes)[labels] * (1 - smoothing) + smoothing / classes
    expected = -(targets * scipy.special.log_softmax(logits, axis=-1)).sum(-1)
    found = jitted(jnp.float32(logits), jnp.int32(labels), label_smoothing=smoothing)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("label", [-5, -4, -1, 4, 1000])
def test_label_outside_the_classes_is_loud(label):
    losses = softmax_cross_entropy(jnp.zeros((2, 4)), jnp.array([1, label]))
    assert np.isfinite(losses[0])
    assert np.isnan(losses[1])


def test_bfloat16_logits_are_computed_in_float32(strict_dtypes):
    losses = softmax_cross_entropy(jnp.array([[3.0, -1.0]], jnp.bfloat16), jnp.array([0], jnp.int32))
    assert losses.dtype == jnp.float32
    np.testing.assert_allclose(losses, np.log1p(np.exp(-4.0)), rtol=1e-5)


def test_refuses_one_hot_labels_and_float_labels():
    expected = r"expected logits \[N, K\] and labels \[N\], got \(2, 4\) and "
    with pytest.raises(ValueError, match=expected + r"\(2, 4\)\. .*one-hot"):
        softmax_cross_entropy(jnp.zeros((2, 4)), jnp.zeros((2, 4), jnp.int32))
    with pytest.raises(ValueError, match=expected + r"\(3,\)\. Pass one class number an example"):
        softmax_cross_entropy(jnp.zeros((2, 4)), jnp.zeros(3, jnp.int32))
    with pytest.raises(TypeError, match="expected integer labels, got float32"):
        jax.eval_shape(softmax_cross_entropy, jnp.zeros((2, 4)), jnp.zeros(2))


RNG = np.random.default_rng(3)
LOGITS = RNG.normal(size=(40, 5)).astype(np.float32) * 3


def test_sigmoid_cross_entropy_is_pytorchs():
    labels = RNG.uniform(size=(40, 5)).astype(np.float32)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(LOGITS), torch.tensor(labels), reduction="none"
    ).mean(1)
    np.testing.assert_allclose(sigmoid_cross_entropy(LOGITS, labels), expected, rtol=1e-5)
    smooth = torch.tensor(labels * 0.9 + 0.05)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor(LOGITS), smooth, reduction="none")
    np.testing.assert_allclose(sigmoid_cross_entropy(LOGITS, labels, label_smoothing=0.1), expected.mean(1), rtol=1e-5)
    numbers = RNG.integers(0, 5, 40)
    rows = np.eye(5, dtype=np.float32)[numbers]
    np.testing.assert_array_equal(sigmoid_cross_entropy(LOGITS, numbers), sigmoid_cross_entropy(LOGITS, rows))


def test_mean_squared_error_is_numpys():
    labels = RNG.normal(size=(40, 5)).astype(np.float32)
    np.testing.assert_allclose(mean_squared_error(LOGITS, labels), ((LOGITS - labels) ** 2).mean(1), rtol=1e-5)
    one = LOGITS[:, :1]
    for shape in ((40,), (40, 1)):
        found = mean_squared_error(one, labels[:, 0].reshape(shape))
        np.testing.assert_allclose(found, (one[:, 0] - labels[:, 0]) ** 2, rtol=1e-5)
    numbers = RNG.integers(0, 5, 40)
    expected = ((LOGITS - np.eye(5)[numbers]) ** 2).mean(1)
    np.testing.assert_allclose(mean_squared_error(LOGITS, numbers), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "labels", "error", "message"),
    [
        (sigmoid_cross_entropy, np.zeros((40, 4), "f"), ValueError, r"expected logits \[N, K\] and labels \[N, K\]"),
        (sigmoid_cross_entropy, np.zeros((40, 5), int), TypeError, r"Use labels\.astype\('float32'\)"),
        (sigmoid_cross_entropy, np.zeros(40, "f"), ValueError, r"got \(40, 5\) and \(40,\)"),
        (mean_squared_error, np.zeros(40, "f"), ValueError, r"mean_squared_error: expected logits"),
    ],
)
def test_labels_of_another_shape_are_refused(loss, labels, error, message):
    with pytest.raises(error, match=message):
        loss(LOGITS, labels)


def test_numbers_to_regress_on_are_float():
    with pytest.raises(TypeError, match="expected float labels, got int"):
        mean_squared_error(LOGITS[:, :1], np.zeros(40, int))


def test_balanced_class_weights_are_scikit_learns():
    labels = RNG.choice(5, 200, p=[0.5, 0.3, 0.1, 0.06, 0.04])
    expected = compute_class_weight("balanced", classes=np.arange(5), y=labels)
    np.testing.assert_allclose(balanced_class_weights(labels, 5), expected, rtol=1e-6)
    assert balanced_class_weights(labels, 7)[5:].tolist() == [0, 0]
    with pytest.raises(LabelError, match="labels reach 4; the model has 3 classes"):
        balanced_class_weights(labels, 3)


def test_class_weights_weigh_as_pytorchs_do():
    labels, weights = RNG.integers(0, 5, 40), np.arange(5, dtype=np.float32) / 2
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(LOGITS), torch.tensor(labels), weight=torch.tensor(weights), reduction="none"
    )
    found = class_weighted(softmax_cross_entropy, weights)(jnp.asarray(LOGITS), jnp.asarray(labels))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="and 5 weights, got labels int32"):
        class_weighted(softmax_cross_entropy, weights[:3])(jnp.asarray(LOGITS), jnp.asarray(labels, jnp.int32))
