"""The maximum's derivatives on a CPU: a NumPy loop says which pixel is each window's, under every transformation."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from cnnjax import ops
from cnnjax.ops.maxima import max_of_windows, max_pool_gather_p, max_pool_scatter_p
from tests.ops import oracles

GEOMETRIES = [
    ((2, 2), (2, 2)),
    ((3, 3), (2, 2)),
    ((3, 2), (1, 2)),
    ((2, 2), (3, 4)),
    ((1, 3), (2, 3)),
    ((4, 4), (4, 4)),
]


def draw(shape, seed=0, nan=False):
    """Return few distinct values, so that ties are common, infinities among them."""
    rng = np.random.default_rng(seed)
    x = rng.choice([-np.inf, -1.0, 0.0, 0.5, np.inf, *([np.nan] if nan else [])], size=shape)
    return x.astype(np.float32)


def first_places(x, window, strides):
    """Return row and column of each window's maximum, the first in reading order; NaN is larger than all."""
    rows, columns = ((n - k) // s + 1 for n, k, s in zip(x.shape[1:3], window, strides))
    places = np.empty((2, x.shape[0], rows, columns, x.shape[3]), int)
    for n, i, j, c in np.ndindex(places.shape[1:]):
        top, left = i * strides[0], j * strides[1]
        pixels = x[n, top : top + window[0], left : left + window[1], c].ravel()
        first = np.flatnonzero(np.isnan(pixels))
        best = first[0] if first.size else np.flatnonzero(pixels == pixels.max())[0]
        places[:, n, i, j, c] = top + best // window[1], left + best % window[1]
    return places


@pytest.mark.parametrize("nan", [False, True])
@pytest.mark.parametrize(("window", "strides"), GEOMETRIES)
def test_each_is_what_a_loop_takes_and_gives(window, strides, nan):
    x, t = draw((2, 9, 10, 3), nan=nan), np.random.default_rng(1).normal(size=(2, 9, 10, 3)).astype(np.float32)
    rows, columns = first_places(x, window, strides)
    n, c = np.arange(2)[:, None, None, None], np.arange(3)
    geometry = {"window": window, "strides": strides}
    taken = jax.jit(partial(max_pool_gather_p.bind, **geometry))(t, x)
    np.testing.assert_array_equal(taken, t[n, rows, columns, c])
    g = np.random.default_rng(2).normal(size=rows.shape).astype(np.float32)
    expected = np.zeros(x.shape)
    np.add.at(expected, (n, rows, columns, c), g)
    for call in (lambda f: f, jax.jit):
        given = call(partial(max_pool_scatter_p.bind, **geometry))(g, x)
        np.testing.assert_allclose(given, expected, rtol=1e-6, atol=1e-6)
    with jax.disable_jit():
        np.testing.assert_array_equal(max_pool_gather_p.bind(t, x, **geometry), taken)


@pytest.mark.parametrize("padding", [1, ((0, 1), (2, 0))])
def test_padding_is_smaller_than_any_number(padding):
    x = -1 - np.random.default_rng(0).random((2, 6, 6, 3), np.float32)
    x[0, :, :, 0] = np.finfo(np.float32).min
    y, vjp = jax.vjp(jax.jit(lambda x: ops.max_pool(x, 3, strides=2, padding=padding)), x)
    pads = ((padding, padding),) * 2 if isinstance(padding, int) else padding
    np.testing.assert_array_equal(y, oracles.pool(x, (3, 3), (2, 2), pads, lambda v, _: v.max((1, 2))))
    assert vjp(jnp.ones(y.shape))[0].sum() == y.size


@pytest.mark.parametrize(("window", "strides"), GEOMETRIES)
def test_derivatives_of_any_order_and_mode(window, strides):
    x = jnp.asarray(np.random.default_rng(0).permutation(180).reshape(1, 9, 10, 2), jnp.float32) / 20

    def f(x):
        return ops.max_pool(x * x, window, strides=strides) ** 2

    check_grads(jax.jit(f), (x,), order=2, modes=("fwd", "rev"), eps=1e-2, atol=0.1, rtol=2e-2)


def test_nothing_is_kept_for_the_gradient_but_the_images():
    x = jnp.ones((4, 12, 12, 8))
    geometry = {"window": (3, 3), "strides": (2, 2), "padding": ((0, 1), (1, 0))}
    kept = jax.tree.leaves(jax.vjp(partial(max_of_windows, **geometry), x)[1])
    assert [leaf.shape for leaf in kept if leaf.size > 1] == [(4, 13, 13, 8)]


def test_every_dtype_has_its_own_gradient():
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        x = jnp.asarray(draw((2, 8, 8, 3)), dtype)
        gradient = jax.jit(jax.grad(lambda x: ops.max_pool(x, 2).astype(jnp.float32).sum()))(x)
        assert gradient.dtype == dtype
        assert gradient.sum() == 2 * 16 * 3
    with jax.enable_x64(True):
        # Neighbours that are one number in float32.
        x = jnp.asarray([1.0, 1.0 + 1e-12, 1.0 - 1e-12, 1.0]).reshape(1, 2, 2, 1)
        gradient = jax.jit(jax.grad(lambda x: ops.max_pool(x, 2).sum()))(x)
        assert gradient.ravel().tolist() == [0.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("dims", [(0, 0), (1, None), (None, 2)])
@pytest.mark.parametrize(("window", "strides"), [((2, 3), (2, 1)), ((2, 1), (2, 1))])
@pytest.mark.parametrize("primitive", [max_pool_gather_p, max_pool_scatter_p])
def test_vmap(primitive, window, strides, dims):
    geometry = {"window": window, "strides": strides}
    x, rng = draw((2, 6, 7, 2)), np.random.default_rng(3)
    t = rng.normal(size=x.shape if primitive is max_pool_gather_p else (2, 3, 8 - window[1], 2)).astype(np.float32)
    operands = [
        value if dim is None else np.stack([np.roll(value, shift, 1) for shift in range(3)], dim)
        for value, dim in zip((t, x), dims)
    ]
    f = partial(primitive.bind, **geometry)
    each = [[v if d is None else np.take(v, i, d) for v, d in zip(operands, dims)] for i in range(3)]
    found = jax.jit(jax.vmap(f, dims))(*operands)
    np.testing.assert_allclose(found, np.stack([f(*one) for one in each]), rtol=1e-6)


@pytest.mark.parametrize("shape", [(0, 2, 8, 8, 1), (3, 0, 8, 8, 1), (3, 2, 8, 8, 0)])
def test_there_may_be_nothing(shape):
    gradient = jax.grad(lambda x: (ops.max_pool(x, 2) ** 2).sum())
    assert jax.vmap(gradient)(jnp.zeros(shape)).shape == shape
    tangents = jax.linearize(lambda x: ops.max_pool(x, 2), jnp.zeros(shape[1:]))[1]
    assert jax.vmap(tangents)(jnp.zeros(shape)).shape == (*shape[:2], 4, 4, shape[4])


def test_places_are_found_once_for_all_tangents():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 6, 2)), jnp.float32)
    text = jax.jit(jax.jacfwd(lambda x: ops.max_pool(x, 2))).lower(x).as_text()
    assert "stablehlo.compare" in text
    largest = [line for line in text.splitlines() if "stablehlo.compare  GE" in line or "compare GE" in line]
    assert largest
    assert not any("tensor<72x" in line for line in largest)


def test_integers_have_values_and_no_gradient():
    x = jnp.arange(32).reshape(1, 4, 4, 2)
    y, tangent = jax.jvp(lambda x: ops.max_pool(x, 2), (x,), (np.zeros(x.shape, jax.dtypes.float0),))
    assert y[0, :, :, 0].tolist() == [[10, 14], [26, 30]]
    assert tangent.dtype == jax.dtypes.float0


def test_exports_for_every_platform_with_an_unknown_batch():
    f = jax.jit(jax.grad(lambda x: (ops.max_pool(x, 3, strides=2, padding=1) ** 2).sum()))
    x = jnp.asarray(draw((2, 9, 8, 3))).clip(-2, 2)
    (batch,) = jax.export.symbolic_shape("b")
    for size in (2, batch):
        shape = jax.ShapeDtypeStruct((size, 9, 8, 3), jnp.float32)
        exported = jax.export.export(f, platforms=("cpu", "cuda", "tpu"))(shape)
        np.testing.assert_allclose(exported.call(x), f(x), rtol=1e-6)


def test_only_one_cpu_has_stages(monkeypatch):
    traced = jax.jit(jax.grad(lambda x: ops.max_pool(x, 2).sum())).trace(jnp.ones((2, 8, 8, 4)))
    stages = {name: traced.lower(lowering_platforms=(name,)).as_text().count("inlineable") for name in ("cpu", "tpu")}
    assert stages["cpu"] > 0 == stages["tpu"]
    monkeypatch.setenv("CNNJAX_CPU_OPS", "off")
    assert "cnnjax" not in str(jax.make_jaxpr(jax.grad(lambda x: ops.max_pool(x, 2).sum()))(jnp.ones((2, 8, 8, 4))))


def test_large_windows_keep_their_folds():
    text = str(jax.make_jaxpr(jax.grad(lambda x: ops.max_pool(x, 5).sum()))(jnp.ones((1, 10, 10, 1))))
    assert "cnnjax" not in text


SHARDED = r"""
import re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from cnnjax import ops

mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.{axis},))
data = np.random.default_rng(0).integers(0, 4, size=(4, 9, 9, 3)).astype(np.float32)
x = jax.device_put(data, NamedSharding(mesh, P("data")))
for window, strides in ((2, 2), (3, 2)):
    step = jax.grad(lambda x: (ops.max_pool(x, window, strides=strides) ** 2).sum())
    with jax.set_mesh(mesh) if {context} else jax.enable_x64(False):
        lowered = jax.jit(step).lower(x)
        text = lowered.compile().as_text()
        found = lowered.compile()(x)
    assert "inlineable" not in lowered.as_text()
    assert not re.findall(r" (all-\w+|collective-\w+|reduce-scatter)\(", text)
    np.testing.assert_allclose(found, jax.jit(step)(data), rtol=1e-6)
"""


@pytest.mark.parametrize(("axis", "context"), [("Auto", False), ("Explicit", True)])
def test_sharded_images_stay_on_their_devices(axis, context):
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    code = SHARDED.format(axis=axis, context=context)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
