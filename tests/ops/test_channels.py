"""Sums over all pixels and what is spread over them, against NumPy in float64 and under every transformation."""

import math
import os
import re
import subprocess
import sys

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from cnnjax.layers import BatchNorm
from cnnjax.ops.channels import broadcast_channels, channel_dot, channel_moments, channel_sum, scale
from cnnjax.ops.cpu import sums

OTHERS = ("cuda", "tpu")
SHAPES = [(16, 9, 7, 3), (7, 5, 3, 2), (1, 31, 33, 5), (3, 1), (1, 1, 1, 4), (64, 8, 8, 130), (12, 100, 2), (2, 700, 6)]
LARGE = [(7, 95, 99, 3), (1, 300, 450, 1), (100_003, 2), (16, 64, 64, 4)]


def draw(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(0.5, 1.0, size=shape), jnp.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_slices_of_any_number_of_pixels_equal_numpy_in_float64(shape, monkeypatch):
    monkeypatch.setattr(sums, "_SMALL", 0)
    x, y = draw(shape), draw(shape, 1)
    terms = np.asarray(x, np.float64) * np.asarray(y, np.float64)
    found = sums.over_pixels(x, y)
    np.testing.assert_allclose(found, terms.sum(tuple(range(x.ndim - 1))), rtol=1e-5, atol=1e-6 * np.abs(terms).sum())


@pytest.mark.parametrize("shape", SHAPES + LARGE)
def test_equals_numpy_in_float64(shape):
    x, axes = draw(shape), tuple(range(len(shape) - 1))
    wide = np.asarray(x, np.float64)
    y, values = draw(shape, 1), draw(shape[-1:], 2)
    for call in (lambda f: f, jax.jit):
        for found, terms in ((call(channel_sum)(x), wide), (call(channel_dot)(x, y), wide * np.asarray(y, np.float64))):
            np.testing.assert_allclose(found, terms.sum(axes), rtol=1e-5, atol=1e-5 * np.abs(terms).sum(axes).max())
        centre, shift, var = call(channel_moments)(x)
        np.testing.assert_allclose(centre + shift, wide.mean(axes), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(var, wide.var(axes), rtol=1e-5, atol=1e-10)
        np.testing.assert_array_equal(call(broadcast_channels)(values, x), np.broadcast_to(values, shape))
        np.testing.assert_array_equal(call(scale)(x, values), np.asarray(x) * np.asarray(values))


def test_each_is_the_others_transpose_in_any_order_and_mode():
    x, values = draw((6, 5, 3)), draw((3,), 1)

    def f(x, values):
        y = scale(x, values) + broadcast_channels(values * values, x)
        return channel_sum(y * y * y) + channel_dot(x, y) * values

    check_grads(jax.jit(f), (x, values), order=2, modes=("fwd", "rev"), eps=1e-2, atol=3e-2, rtol=3e-2)
    backward = str(jax.make_jaxpr(lambda x, v, g: jax.vjp(f, x, v)[1](g))(x, values, values))
    assert "cnnjax_channel_sum" in backward
    assert "cnnjax_channel_dot" in backward
    assert "reduce_sum" not in backward


def test_moments_from_a_centre_stay_among_them_too():
    x, g = draw((6, 5, 4, 3)), draw((6, 5, 4, 3), 1)

    def f(x):
        centre, shift, var = channel_moments(x)
        return (
            (scale(x, var, centre) - broadcast_channels(shift * var, x)) * broadcast_channels(shift + centre, x) * g
        ).sum()

    check_grads(jax.jit(f), (x,), order=2, modes=("fwd", "rev"), eps=1e-2, atol=3e-2, rtol=3e-2)
    backward = str(jax.make_jaxpr(jax.grad(f))(x))
    assert {"cnnjax_channel_sum", "cnnjax_channel_square", "cnnjax_channel_dot"} <= set(re.findall(r"\w+", backward))
    both = jax.vmap(channel_moments)(jnp.stack([x, x + 3])), [channel_moments(x), channel_moments(x + 3)]
    chex.assert_trees_all_close(both[0], tuple(map(jnp.stack, zip(*both[1]))), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_vmap(axis):
    x, y, values = draw((3, 4, 5, 2)), draw((3, 4, 5, 2), 1), draw((5, 2))
    plain_sum, plain_dot = lambda x: x.sum((0, 1)), lambda x, y: (x * y).sum((0, 1))
    for f, plain, operands in ((channel_sum, plain_sum, (x,)), (channel_dot, plain_dot, (x, y))):
        chex.assert_trees_all_close(jax.vmap(f, axis)(*operands), jax.vmap(plain, axis)(*operands), rtol=1e-5)
    one = jnp.zeros((3, 4, 2))
    expected = np.broadcast_to(values[:, None, None], (5, 3, 4, 2))
    np.testing.assert_array_equal(jax.jit(jax.vmap(broadcast_channels, (0, None)))(values, one), expected)
    np.testing.assert_array_equal(jax.jit(jax.vmap(scale, (None, 0)))(one + 1, values), expected)


def test_nan_and_infinity_stay_in_their_channel():
    x = draw((16, 64, 64, 3)).at[3, 2, 1, 0].set(jnp.nan).at[9, 7, 7, 2].set(jnp.inf)
    sums = np.asarray(jax.jit(channel_sum)(x))
    assert np.isnan(sums[0])
    assert np.isfinite(sums[1])
    assert sums[2] == np.inf


def test_half_precision_is_summed_in_float32():
    x = jnp.full((64, 33, 33, 2), 40.0, jnp.float16).at[::2].set(-40.0).at[0, 0, 0].set(3.0)
    np.testing.assert_array_equal(jax.jit(channel_sum)(x), np.asarray(x, np.float64).sum((0, 1, 2)))
    ones = jnp.ones((64, 64, 64, 1), jnp.bfloat16)
    assert jax.jit(channel_dot)(ones, ones).tolist() == [ones.size]


def largest_sum(text: str) -> int:
    """Return how many numbers the largest reduction of a StableHLO module reads."""
    reductions = re.findall(r"stablehlo\.reduce\(.*?\((tensor<[\dx]+)", text)
    return max((math.prod(int(n) for n in re.findall(r"\d+", sizes)) for sizes in reductions), default=0)


def test_only_one_cpu_adds_slices(monkeypatch):
    x = draw((32, 32, 32, 8))
    assert x.size == 8 * 32768
    norm = BatchNorm(use_running_average=False)
    variables = norm.init(jax.random.key(0), x)

    def step(x):
        return jax.grad(lambda x: (norm.apply(variables, x, mutable=["batch_stats"])[0] ** 3).sum())(x)

    def lowered(platform):
        return jax.jit(lambda x: step(x)).trace(x).lower(lowering_platforms=(platform,)).as_text()

    slices = {name: re.findall(r"stablehlo\.slice.*tensor<32768x", lowered(name)) for name in ("cpu", *OTHERS)}
    assert [platform for platform, found in slices.items() if found] == ["cpu"]
    ours = jax.jit(lambda x: step(x))(x)
    monkeypatch.setenv("CNNJAX_CPU_OPS", "off")
    assert not re.findall(r"stablehlo\.slice.*tensor<32768x", lowered("cpu"))
    np.testing.assert_allclose(ours, jax.jit(lambda x: step(x))(x), rtol=1e-3, atol=1e-4)


def test_no_large_reduction_is_left_for_xla():
    x = draw((32, 32, 32, 4))
    assert largest_sum(jax.jit(lambda x: x.sum((0, 1, 2))).lower(x).as_text()) == x.size
    assert 0 < largest_sum(jax.jit(channel_sum).lower(x).as_text()) <= 64 * 4


def test_without_jit_it_is_jaxs_own_sum():
    x = draw((16, 8, 8, 3))
    with jax.disable_jit():
        np.testing.assert_allclose(channel_sum(x), x.sum((0, 1, 2)), rtol=1e-5)


def test_exports_with_and_without_a_symbolic_batch():
    x = draw((8, 4, 4, 3))
    f = jax.jit(lambda x: scale(x, channel_dot(x, x)) - broadcast_channels(channel_sum(x), x))
    (batch,) = jax.export.symbolic_shape("b")
    for size in (8, batch):
        exported = jax.export.export(f)(jax.ShapeDtypeStruct((size, 4, 4, 3), jnp.float32))
        np.testing.assert_allclose(exported.call(x), f(x), rtol=1e-4, atol=1e-3)


SHARDED = r"""
import re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from flax import linen as nn
from cnnjax.layers import BatchNorm
from cnnjax.ops.channels import channel_dot

mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.{axis},))
data = np.random.default_rng(0).normal(1.0, 2.0, size=(16, 64, 64, 3)).astype(np.float32)
x = jax.device_put(data, NamedSharding(mesh, P("data")))

def run(norm, x):
    variables = norm.init(jax.random.key(0), jnp.ones((1, 1, 1, 3)))
    step = jax.value_and_grad(lambda x: (norm.apply(variables, x, mutable=["batch_stats"])[0] ** 3).sum())
    compiled = jax.jit(step).lower(x).compile()
    return re.findall(r" (all-\w+|collective-\w+|reduce-scatter)\(", compiled.as_text()), compiled(x)

with jax.set_mesh(mesh) if {context} else jax.enable_x64(False):
    collectives, (value, gradient) = run(BatchNorm(use_running_average=False), x)
    assert "stablehlo.slice" not in jax.jit(lambda x: channel_dot(x, x)).lower(x).as_text()
assert "stablehlo.slice" in jax.jit(lambda x: channel_dot(x, x)).lower(data).as_text()
assert collectives and set(collectives) == {{"all-reduce"}}, collectives
whole = run(BatchNorm(use_running_average=False), data)[1]
np.testing.assert_allclose(value, whole[0], rtol=1e-4)
np.testing.assert_allclose(gradient, whole[1], rtol=1e-3, atol=1e-4)
"""


@pytest.mark.parametrize(("axis", "context"), [("Auto", False), ("Auto", True), ("Explicit", True)])
def test_a_sharded_batch_norm_only_reduces_over_devices(axis, context):
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    code = SHARDED.format(axis=axis, context=context)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
