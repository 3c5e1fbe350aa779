"""Right where XLA for the CPU is silently wrong (jaxlib 0.10.2), without any flag.

Its YNNPACK fusion makes garbage of a reduction after a convolution by one repeated number, and drops NaN. `jax.lax`
itself fails most of these tests.
"""

import os
import subprocess
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cnnjax import models, ops
from cnnjax.layers import BasicBlock
from cnnjax.models import resnet
from cnnjax.ops.xla_faults import hide_constant
from tests.ops import oracles

# Images, kernel, dtype: through jax.lax, as a matrix product, as a banded one.
CASES = [
    ((2, 32, 32, 16), (3, 3, 16, 32), jnp.float32),
    ((1, 64, 64, 3), (3, 3, 3, 8), jnp.float32),
    ((2, 32, 32, 64), (1, 1, 64, 32), jnp.float32),
    ((8, 28, 28, 1), (5, 5, 1, 6), jnp.float32),
    ((2, 32, 32, 32), (3, 3, 32, 16), jnp.bfloat16),
    ((2, 32, 32, 32), (3, 3, 32, 16), jnp.float64),
]


def draw(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def pairs(x):
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c)


def widened(x):
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def window_sum(x):
    return lax.reduce_window(widened(x), 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


# What is computed after the convolution, and the same in NumPy.
AFTER: dict[str, Any] = {
    "max_pool": (lambda x: ops.max_pool(x, 2), lambda x: pairs(x).max((2, 4))),
    "avg_pool": (lambda x: ops.avg_pool(x, 2), lambda x: pairs(x).mean((2, 4))),
    "global_avg_pool": (ops.global_avg_pool, lambda x: x.mean((1, 2))),
    "max": (lambda x: pairs(x).max((2, 4)), lambda x: pairs(x).max((2, 4))),
    "window sum": (window_sum, lambda x: pairs(x).sum((2, 4))),
    "sum": (lambda x: widened(x).sum((1, 2)), lambda x: x.sum((1, 2))),
}


@pytest.mark.parametrize(
    ("case", "after"),
    [*((0, after) for after in AFTER), *((case, after) for case in range(1, len(CASES)) for after in ("max", "sum"))],
)
def test_constant_kernels_are_right(case, after):
    shape, kernel, dtype = CASES[case]
    ours, theirs = AFTER[after]
    with jax.enable_x64(dtype == jnp.float64):
        x = jnp.asarray(draw(shape), dtype)
        truth = theirs(oracles.conv(x, np.full(kernel, 0.25), (1, 1), "SAME"))
        y = jax.jit(lambda x: ours(ops.conv2d(x, jnp.full(kernel, 0.25, dtype))))(x)
        oracles.close(y, truth, 0.02 if dtype == jnp.bfloat16 else 1e-5)


@pytest.mark.parametrize("strides", [1, 2])
def test_captured_constants_and_their_gradients_are_right(strides):
    x, kernel = draw((2, 32, 32, 16)), np.ones((3, 3, 16, 32), np.float32)
    window = ((strides, strides), ((1, 1), (1, 1)))

    def loss(x):
        return (ops.conv2d(x, kernel, strides=strides, padding=1) ** 2).mean()

    y = oracles.conv(x, kernel, *window)
    oracles.close(jax.jit(loss)(x), (y**2).mean())
    dx, _ = oracles.conv_gradients(x, kernel, 2 * y / y.size, *window)
    oracles.close(jax.jit(lambda x: jnp.abs(jax.grad(loss)(x)).sum((1, 2)))(x), np.abs(dx).sum((1, 2)))


LOWERED: dict[str, tuple[Any, bool]] = {
    "an argument": (lambda k, s: k, False),
    "computed from an argument": (lambda k, s: jnp.tanh(k) * 2 + s, False),
    "cast and moved about": (lambda k, s: jnp.flip(k.reshape(3, 36).reshape(k.shape), 0).astype(jnp.bfloat16), False),
    "a captured array": (lambda k, s: jnp.asarray(draw((3, 3, 2, 6))), False),
    "chosen from arguments": (lambda k, s: jnp.where(s > 0, k, -k), False),
    "a product": (lambda k, s: k @ jnp.ones((6, 6)), False),
    "ones": (lambda k, s: jnp.ones((3, 3, 2, 6)), True),
    "captured ones": (lambda k, s: jnp.asarray(np.ones((3, 3, 2, 6), np.float32)), True),
    "a repeated argument": (lambda k, s: jnp.full((3, 3, 2, 6), s), True),
    "arithmetic on constants": (lambda k, s: (jnp.ones((3, 3, 2, 6)) * 0.5 + 1).transpose(1, 0, 2, 3), True),
    "chosen from constants": (lambda k, s: jnp.where(s > 0, jnp.ones((3, 6)), jnp.zeros((3, 6))), True),
    "a part of constants": (lambda k, s: lax.dynamic_index_in_dim(jnp.ones((4, 3, 6)), s.astype(int)), True),
    "an inner function's argument": (lambda k, s: jax.jit(hide_constant)(jnp.ones((3, 3, 2, 6))), True),
    "in a loop": (
        lambda k, s: lax.scan(lambda c, _: (hide_constant(c), None), jnp.ones((3, 6)), None, length=2)[0],
        True,
    ),
    "one number": (lambda k, s: jnp.ones((1, 1, 1, 1)), False),
}


@pytest.mark.parametrize("name", LOWERED)
def test_only_what_may_be_one_number_is_hidden_and_only_on_cpu(name):
    make, hidden = LOWERED[name]
    traced = jax.jit(lambda k, s: hide_constant(make(k, s))).trace(jnp.ones((3, 3, 2, 6)), 1.0)
    assert ("replica_id" in traced.lower(lowering_platforms=("cpu",)).as_text()) == hidden
    for platform in ("cuda", "tpu"):
        assert "replica_id" not in traced.lower(lowering_platforms=(platform,)).as_text()


def test_hiding_changes_nothing_under_any_transformation():
    x = jnp.asarray(draw((4, 3)))
    for f in (hide_constant, jax.jit(lambda x: hide_constant(x * jnp.ones((4, 3)))), jax.vmap(hide_constant, 1, 1)):
        np.testing.assert_array_equal(f(x), x)
    ones = jnp.ones((4, 3))
    np.testing.assert_array_equal(jax.jit(lambda: hide_constant(jnp.ones((4, 3))))(), ones)
    np.testing.assert_array_equal(jax.grad(lambda x: (hide_constant(x) ** 2).sum())(x), 2 * x)
    np.testing.assert_array_equal(jax.jvp(hide_constant, (x,), (ones,))[1], ones)
    assert hide_constant("kernel") == "kernel"


POOLS = {
    "max 2/2": partial(ops.max_pool, window=2),
    "max 3/3": partial(ops.max_pool, window=3),
    "avg 2/2": partial(ops.avg_pool, window=2),
    "global": ops.global_avg_pool,
    "adaptive to 3": partial(ops.adaptive_avg_pool, output_size=3),
    "adaptive to 1": partial(ops.adaptive_avg_pool, output_size=1),
    "adaptive to a row": partial(ops.adaptive_avg_pool, output_size=(1, 3)),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", POOLS)
def test_nan_survives_a_relu_and_a_pool(name, dtype):
    """XLA's mean of a ReLU is a number, whatever the NaN in it."""
    x = jnp.asarray(draw((2, 20, 20, 32)), dtype).at[1, 10, 11, 5].set(jnp.nan)
    found = jax.jit(lambda x: POOLS[name](jax.nn.relu(x)))(x)
    spots = np.argwhere(np.isnan(np.asarray(found, np.float32)))
    assert [(spot[0], spot[-1]) for spot in spots] == [(1, 5)]


MODELS = {
    "plain": partial(models.build, "simple_cnn", num_classes=5),
    "residual": partial(resnet.ResNet, (1,), BasicBlock, width=8, small_images=True, num_classes=5),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_with_constant_parameters_are_right(name):
    model, x = MODELS[name](), draw((2, 24, 20, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    constant = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.05 if leaf.ndim > 1 else 1.0, np.float32), shapes)
    y = jax.jit(lambda x: model.apply(constant, x))(x)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: leaf.astype(np.float64), constant)
        exact = MODELS[name](dtype=jnp.float64)
        # As arguments, which XLA cannot know to be constant.
        truth = jax.jit(lambda variables, x: exact.apply(variables, x))(wide, x.astype(np.float64))
    oracles.close(y, truth)


def test_a_nan_in_an_image_reaches_the_logits_of_its_example_alone():
    model, x = MODELS["residual"](), draw((3, 16, 16, 3))
    variables = jax.tree.map(
        lambda leaf: draw(leaf.shape) ** 2, jax.eval_shape(model.init, jax.random.key(0), x)
    )  # any will do
    x[1, 5, 6, 0] = np.nan
    assert np.isnan(jax.jit(model.apply)(variables, x)).all(axis=1).tolist() == [False, True, False]


ABORTING = """
import jax, jax.numpy as jnp, numpy as np
from jax import lax
from cnnjax import ops

def taps(x, kernel, strides):
    # The transposed convolution without padding, tap by tap.
    (images, h, w, _), (kh, kw, o, _) = x.shape, kernel.shape
    y = np.zeros((images, (h - 1) * strides[0] + kh, (w - 1) * strides[1] + kw, o))
    for a in range(kh):
        for b in range(kw):
            rows, columns = (slice(at, at + (n - 1) * s + 1, s) for at, n, s in zip((a, b), (h, w), strides))
            y[:, rows, columns] += x @ kernel[a, b].T
    return y

rng = np.random.default_rng(0)
for (h, w), kernel, strides, (p, q) in {cases}:
    x = rng.normal(size=(2, h, w, 4)).astype(np.float32)
    k = rng.normal(size=(*kernel, 2, 4)).astype(np.float32)
    whole = taps(x.astype(np.float64), k.astype(np.float64), strides)
    expected = whole[:, p : whole.shape[1] - p, q : whole.shape[2] - q]
    up = lambda x: ops.conv_transpose2d(x, k, strides=strides, padding=((p, p), (q, q)), transpose_kernel=True)
    y = up(x)
    assert y.shape == expected.shape, (y.shape, expected.shape)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    # The gradient of the image of the convolution itself, and `jax.lax`'s signature with groups of one.
    image = jax.ShapeDtypeStruct(expected.shape, jnp.float32)
    down = lambda y: ops.conv2d(y, k, strides=strides, padding=((p, p), (q, q)))
    np.testing.assert_allclose(jax.linear_transpose(down, image)(x)[0], expected, rtol=1e-4, atol=1e-4)
    edges = [(kernel[0] - 1 - p,) * 2, (kernel[1] - 1 - q,) * 2]
    turned = np.ascontiguousarray(k[::-1, ::-1].transpose(0, 1, 3, 2))
    y = ops.conv_general_dilated(x, turned, (1, 1), edges, strides, None, ("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
"""


@pytest.mark.parametrize("switch", ["on", "off"])
def test_transposed_convolutions_that_abort_xla_are_right(switch):
    # Found by a sweep in child processes: every one that aborts has an axis of two taps and stride 2 without padding,
    # or of k taps, dilation k and stride k - 1, beside an axis whose kernel is larger than the image.
    cases = [
        *[((5, 2), (2, 3), (2, 3), (1, 2)), ((5, 1), (2, 3), (2, 1), (1, 1)), ((3, 3), (2, 4), (2, 1), (1, 2))],
        *[((2, 5), (3, 2), (3, 2), (2, 1)), ((5, 2), (2, 4), (2, 2), (1, 1)), ((1, 6), (2, 2), (2, 2), (0, 1))],
    ]
    code = ABORTING.replace("{cases}", repr(cases))
    if switch == "off":  # the gradient is then JAX's own
        code = "\n".join(line for line in code.splitlines() if "linear_transpose" not in line)
    environment = {**os.environ, "CNNJAX_CPU_OPS": switch}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_dilation_of_three_at_stride_two_is_right_too():
    x, kernel = np.ones((1, 5, 1, 1), np.float32), np.arange(6, dtype=np.float32).reshape(3, 2, 1, 1)
    padding, layout = ((0, 0), (1, 1)), ("NHWC", "HWIO", "NHWC")
    y = ops.conv_general_dilated(x, kernel, (2, 1), padding, (3, 1), None, layout)
    spread = np.zeros((15, 3))
    spread[:13:3, 1] = 1
    expected = [[(spread[i : i + 3, j : j + 2] * kernel[:, :, 0, 0]).sum() for j in range(2)] for i in range(0, 11, 2)]
    np.testing.assert_array_equal(y[0, :, :, 0], expected)
