import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from cnnjax import models
from cnnjax.errors import UsageError

MODEL = models.build("lenet5", num_classes=10)


def count(shape):
    variables = jax.eval_shape(MODEL.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def test_has_the_papers_parameters_with_a_dense_c3():
    # C1 156, C3 (dense instead of the paper's table) 2,416, C5 48,120, F6 10,164, output 850.
    assert count((1, 32, 32, 1)) == 61_706
    assert count((1, 28, 28, 1)) == 61_706


def numpy_lenet(params, image):
    """LeNet-5 for one image in float64, with SciPy's correlation as the oracle."""
    p = jax.tree.map(lambda x: np.array(x, np.float64), params)
    x = np.pad(image.astype(np.float64), ((2, 2), (2, 2), (0, 0))) if image.shape[0] == 28 else image.astype(np.float64)
    for name in ("c1", "c3"):
        kernel, bias = p[name]["kernel"], p[name]["bias"]
        maps = [
            sum(scipy.signal.correlate2d(x[..., i], kernel[..., i, o], "valid") for i in range(x.shape[-1])) + bias[o]
            for o in range(kernel.shape[-1])
        ]
        x = np.maximum(np.stack(maps, -1), 0)
        x = x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1).max((1, 3))
    x = x.reshape(-1)
    for name in ("c5", "f6"):
        x = np.maximum(x @ p[name]["kernel"] + p[name]["bias"], 0)
    return x @ p["output"]["kernel"] + p["output"]["bias"]


@pytest.mark.parametrize("size", [28, 32])
def test_equals_scipy_in_float64(size):
    rng = np.random.default_rng(size)
    images = rng.normal(size=(3, size, size, 1)).astype(np.float32)
    params = jax.jit(MODEL.init)(jax.random.key(1), images)["params"]
    params = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), params)  # biases too
    expected = np.stack([numpy_lenet(params, image) for image in images])
    found = jax.jit(MODEL.apply)({"params": params}, images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_refuses_images_that_it_cannot_read():
    def init(shape, dtype=jnp.float32):
        return jax.eval_shape(MODEL.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, dtype))

    with pytest.raises(UsageError, match="lenet5: expected images of at least 28x28 pixels, got 28x8"):
        init((1, 28, 8, 1))
    with pytest.raises(ValueError, match=r"rank 4 \[N, H, W, C\], got shape \(28, 28, 1\)\. Add a batch axis"):
        init((28, 28, 1))
    with pytest.raises(TypeError, match="expected float images, got uint8"):
        init((1, 28, 28, 1), jnp.uint8)
