import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from cnnjax.training import softmax_cross_entropy

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
