"""Half precision, and convolutions in a loop: XLA:CPU has slow forms of both, which must not be what is compiled."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import ops
from tests.ops import oracles

# As in a CIFAR ResNet's first stage and at its first stride; narrow enough for XLA's own convolution to be chosen.
SITES = [((8, 8, 8, 16), (3, 3, 16, 16), 1), ((8, 8, 8, 16), (3, 3, 16, 32), 2)]


def loss_of(stride):
    def loss(x, k):
        padding = [(1, 1), (1, 1)]
        y = ops.conv_general_dilated(x, k, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.sum(jnp.sin(y.astype(jnp.float32)))

    return loss


def operands(x_shape, k_shape, dtype):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=x_shape), dtype), jnp.asarray(0.1 * rng.normal(size=k_shape), dtype)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("x_shape", "k_shape", "stride"), SITES)
def test_in_a_loop_every_convolution_has_the_form_of_the_fast_routine(x_shape, k_shape, stride, dtype):
    x, k = operands(x_shape, k_shape, dtype)

    def loop(xs, k):
        step = jax.grad(loss_of(stride), argnums=(0, 1))
        return jax.lax.scan(lambda total, x: (total + step(x, k)[1], step(x, k)[0]), jnp.zeros_like(k), xs)

    program = jax.jit(loop).lower(jnp.stack([x, x]), k).compile().as_text()
    found = re.findall(r"= (\w+)\[.*? convolution\(.*?window=\{(.*?)\}, dim_labels=(\S+?),", program)
    assert len(found) >= 2  # the forward and the gradient of the images; the kernel's is a product
    for kind, window, labels in found:
        assert (kind, labels) == ("f32", "b01f_01io->b01f")
        assert "rhs_reversal" not in window


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(
    ("x_shape", "k_shape", "stride"), [*SITES, ((8, 8, 8, 32), (3, 3, 32, 32), 1), ((4, 6, 6, 8), (1, 1, 8, 8), 1)]
)
def test_half_precision_rounds_once(x_shape, k_shape, stride, dtype):
    x, k = operands(x_shape, k_shape, dtype)
    window = {"strides": stride, "padding": k_shape[0] // 2}
    y, back = jax.vjp(lambda x, k: ops.conv2d(x, k, **window), x, k)
    g = operands(y.shape, y.shape, dtype)[0]
    results = (y, *back(g))
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(a.astype(jnp.float32)), jnp.float64) for a in (x, k, g)]
        pads = [(k_shape[0] // 2,) * 2] * 2

        def reference(x, k):
            return jax.lax.conv_general_dilated(
                x, k, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )

        exact, exact_back = jax.vjp(reference, *wide[:2])
        expected = [np.asarray(a) for a in (exact, *exact_back(wide[2]))]
    # One rounding to the nearest is half an epsilon off; sums of half-precision sums would be far more.
    for ours, theirs in zip(results, expected):
        assert ours.dtype == dtype
        oracles.close(ours.astype(jnp.float32), theirs, 0.6 * float(jnp.finfo(dtype).eps))
