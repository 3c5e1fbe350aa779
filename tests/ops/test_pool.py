"""Pools against loops in float64 and against jax.lax.reduce_window."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.test_util import check_grads

from cnnjax import ops, shapes
from tests.ops import oracles

IMAGES = st.tuples(st.integers(1, 3), st.integers(1, 23), st.integers(1, 19), st.integers(1, 4))
WINDOWS = st.tuples(st.integers(1, 11), st.integers(1, 11))
STRIDES = st.tuples(st.integers(1, 5), st.integers(1, 5))
PADDINGS = st.sampled_from(["SAME", "VALID", 0, 1, ((0, 1), (2, 1)), ((1, 0), (0, 0))])
COMMON = settings(max_examples=15, deadline=None)


def draw(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def usable(shape, window, strides, padding, ceil_mode=False):
    try:
        pads = oracles.pads(shape[1:3], window, strides, padding, ceil_mode)
    except ValueError:
        return None
    return pads if all(max(side) < k for side, k in zip(pads, window)) else None


@COMMON
@given(IMAGES, WINDOWS, STRIDES, PADDINGS, st.booleans())
def test_max_pool_equals_a_loop(shape, window, strides, padding, ceil_mode):
    pads = usable(shape, window, strides, padding, ceil_mode)
    x = draw(shape)
    if pads is None:
        with pytest.raises(ValueError, match="max_pool: expected"):
            ops.max_pool(x, window, strides=strides, padding=padding, ceil_mode=ceil_mode)
        return
    truth = oracles.pool(x, window, strides, pads, lambda v, _: v.max((1, 2)))
    y = jax.jit(lambda x: ops.max_pool(x, window, strides=strides, padding=padding, ceil_mode=ceil_mode))(x)
    np.testing.assert_array_equal(y, truth)


@COMMON
@given(IMAGES, WINDOWS, STRIDES, PADDINGS, st.booleans(), st.booleans())
def test_avg_pool_equals_a_loop(shape, window, strides, padding, ceil_mode, count_include_pad):
    pads = usable(shape, window, strides, padding, ceil_mode)
    declared = usable(shape, window, strides, padding)
    if pads is None or declared is None:
        return
    (_, bottom), (_, right) = declared

    def mean(v, corner):
        rows = min(corner[0] + window[0], shape[1] + bottom) - corner[0]
        columns = min(corner[1] + window[1], shape[2] + right) - corner[1]
        count = rows * columns if count_include_pad else v.shape[1] * v.shape[2]
        return v.sum((1, 2)) / count

    x = draw(shape)
    options = {"strides": strides, "padding": padding, "ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    oracles.close(
        jax.jit(lambda x: ops.avg_pool(x, window, **options))(x), oracles.pool(x, window, strides, pads, mean), 1e-6
    )


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize(
    ("shape", "window", "strides", "padding"),
    [((2, 2, 2, 3), 3, 2, 0), ((1, 2, 6, 2), (5, 3), (4, 2), (1, 1)), ((2, 6, 2, 8), (2, 3), (1, 5), (1, 0))],
)
def test_an_image_smaller_than_its_window_has_one_in_ceil_mode_as_in_torch(shape, window, strides, padding, include):
    torch = pytest.importorskip("torch")
    x = draw(shape)
    images = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
    sides = padding if padding == 0 else tuple((side, side) for side in padding)
    arguments = {"strides": strides, "padding": sides, "ceil_mode": True}
    theirs = [
        torch.nn.functional.max_pool2d(images, window, strides, padding, ceil_mode=True),
        torch.nn.functional.avg_pool2d(images, window, strides, padding, ceil_mode=True, count_include_pad=include),
    ]
    pools = [lambda x: ops.max_pool(x, window, **arguments)]
    pools += [lambda x: ops.avg_pool(x, window, count_include_pad=include, **arguments)]
    for pool, y in zip(pools, theirs):
        ours, vjp = jax.vjp(pool, jnp.asarray(x))
        g = draw(ours.shape, 1)
        oracles.close(ours, y.permute(0, 2, 3, 1).detach().numpy(), 1e-6)
        (expected,) = torch.autograd.grad(y, images, torch.tensor(g).permute(0, 3, 1, 2))
        oracles.close(vjp(g)[0], expected.permute(0, 2, 3, 1).numpy(), 1e-6)
    with pytest.raises(ValueError, match="no larger than the padded size"):
        ops.max_pool(x, window, **{**arguments, "ceil_mode": False})


@pytest.mark.parametrize(
    ("shape", "window", "strides", "padding", "dilation", "ceil_mode"),
    [
        ((2, 9, 10, 3), (3, 2), (1, 2), (1, 0), (2, 3), False),
        ((1, 12, 11, 2), (2, 2), (2, 3), (1, 1), (3, 1), True),
        ((2, 40, 7, 2), (9, 2), (2, 1), (4, 1), (3, 2), True),
    ],
)
def test_dilated_pools_are_torchs_and_laxs(shape, window, strides, padding, dilation, ceil_mode):
    torch = pytest.importorskip("torch")
    x, sides = draw(shape), tuple((side, side) for side in padding)
    options = {"strides": strides, "padding": sides, "dilation": dilation, "ceil_mode": ceil_mode}
    images = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
    theirs = torch.nn.functional.max_pool2d(images, window, strides, padding, dilation, ceil_mode)
    ours, vjp = jax.vjp(lambda x: ops.max_pool(x, window, **options), x)
    np.testing.assert_array_equal(ours, theirs.permute(0, 2, 3, 1).detach())
    g = draw(ours.shape, 1)
    (expected,) = torch.autograd.grad(theirs, images, torch.tensor(g).permute(0, 3, 1, 2))
    oracles.close(vjp(g)[0], expected.permute(0, 2, 3, 1).numpy(), 1e-6)
    pads = [shapes.window_padding(*axis, ceil_mode) for axis in zip(shape[1:3], window, strides, sides, dilation)]

    def summed(x, pads):
        dims = ((1, *window, 1), (1, *strides, 1), [(0, 0), *pads, (0, 0)])
        return lax.reduce_window(x, 0.0, lax.add, *dims, window_dilation=(1, *dilation, 1))

    ones, beyond = np.ones(shape, np.float32), [(0, high - side) for side, (_, high) in zip(padding, pads)]
    declared = np.pad(ones, [(0, 0), *sides, (0, 0)], constant_values=1)
    for include, counts in ((False, summed(ones, pads)), (True, summed(declared, beyond))):
        pooled = ops.avg_pool(x, window, count_include_pad=include, **options)
        np.testing.assert_allclose(pooled, summed(x, pads) / counts, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("size", "output"), [((9, 7), (4, 3)), ((8, 6), (4, 3)), ((5, 4), (7, 2))])
def test_adaptive_max_pool_is_torchs(size, output):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).integers(0, 5, (2, *size, 3)).astype(np.float32)  # ties
    images = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
    theirs = torch.nn.functional.adaptive_max_pool2d(images, output)
    ours, vjp = jax.vjp(lambda x: ops.adaptive_max_pool(x, output), x)
    np.testing.assert_array_equal(ours, theirs.permute(0, 2, 3, 1).detach())
    g = draw(ours.shape)
    (expected,) = torch.autograd.grad(theirs, images, torch.tensor(g).permute(0, 3, 1, 2))
    oracles.close(vjp(g)[0], expected.permute(0, 2, 3, 1).numpy(), 1e-6)
    assert ops.adaptive_max_pool(x.astype(np.int32), output).dtype == jnp.int32


@COMMON
@given(IMAGES, WINDOWS, STRIDES, PADDINGS)
def test_max_pool_gradient_is_reduce_windows(shape, window, strides, padding):
    """Few distinct values make ties common: each gradient goes to the first in reading order."""
    pads = usable(shape, window, strides, padding)
    if pads is None:
        return
    x = np.random.default_rng(1).integers(0, 3, shape).astype(np.float32)

    def lax_pool(x):
        return lax.reduce_window(x, -np.inf, lax.max, (1, *window, 1), (1, *strides, 1), [(0, 0), *pads, (0, 0)])

    def our_pool(x):
        return ops.max_pool(x, window, strides=strides, padding=padding)

    g = draw(jax.eval_shape(lax_pool, x).shape, seed=2)
    ours, truth = (jax.jit(lambda x, g, f=f: jax.vjp(f, x)[1](g)[0])(x, g) for f in (our_pool, lax_pool))
    np.testing.assert_allclose(ours, truth, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("window", [2, 3, 12])
def test_tied_maximum_sends_its_gradient_to_the_first(window):
    x = jnp.ones((1, 12, 12, 1))
    gradient = jax.jit(jax.grad(lambda x: ops.max_pool(x, window).sum()))(x)
    expected = np.zeros((1, 12, 12, 1), np.float32)
    expected[:, ::window, ::window] = 1
    np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize(("window", "strides"), [(2, 2), (3, 2), (3, 3), (9, 9)])
@pytest.mark.parametrize("pool", [ops.max_pool, ops.avg_pool])
def test_nan_survives(pool, window, strides):
    x = draw((4, 64, 64, 32))
    x[3, 10, 11, 5] = np.nan
    y = jax.jit(lambda x: pool(x, window, strides=strides))(x)
    expected = oracles.pool(np.isnan(x), (window,) * 2, (strides,) * 2, ((0, 0), (0, 0)), lambda v, _: v.any((1, 2)))
    np.testing.assert_array_equal(np.isnan(y), expected.astype(bool))
    assert expected.any()


@pytest.mark.parametrize("shape", [(2, 64, 64, 32), (1, 64, 64, 3), (8, 28, 28, 1)])
@pytest.mark.parametrize("pool", [ops.max_pool, ops.avg_pool])
@pytest.mark.parametrize("value", [1.0, 0.1])
def test_constant_kernels_before_a_pool_are_right(pool, shape, value):
    """XLA:CPU's own 2/2 pool gives garbage here (jaxlib 0.10.2)."""
    x = draw(shape)
    kernel = np.full((3, 3, shape[3], 8), value, np.float32)
    truth = oracles.conv(x, kernel, (1, 1), "SAME")
    reduce = (lambda v, _: v.max((1, 2))) if pool is ops.max_pool else (lambda v, _: v.mean((1, 2)))
    truth = oracles.pool(truth, (2, 2), (2, 2), ((0, 0), (0, 0)), reduce)
    oracles.close(jax.jit(lambda x: pool(ops.conv2d(x, kernel), 2))(x), truth)
    oracles.close(jax.jit(lambda x: pool(ops.conv2d(x, jnp.full(kernel.shape, value)), 2))(x), truth)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_dtypes_are_kept(dtype):
    x = jnp.asarray(draw((2, 9, 8, 3)), dtype)
    outputs = [ops.max_pool(x, 2), ops.avg_pool(x, 2), ops.global_avg_pool(x), ops.adaptive_avg_pool(x, 5)]
    assert {y.dtype for y in outputs} == {jnp.dtype(dtype)}
    truth = oracles.pool(x, (2, 2), (2, 2), ((0, 0), (0, 0)), lambda v, _: v.mean((1, 2)))
    oracles.close(outputs[1], truth, float(jnp.finfo(dtype).eps))
    assert jax.grad(lambda x: ops.max_pool(x, 2).astype(jnp.float32).sum())(x).dtype == dtype


def test_float64_and_integers():
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(2, 9, 8, 3))
        y = ops.avg_pool(x, 3, strides=2, padding=1)
        assert y.dtype == jnp.float64
        truth = oracles.pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)), lambda v, _: v.mean((1, 2)))
        oracles.close(y, truth, 1e-14)
    numbers = np.arange(16, dtype=np.int32).reshape(1, 4, 4, 1)
    assert ops.max_pool(numbers, 3, strides=2, padding=1)[0, :, :, 0].tolist() == [[5, 7], [13, 15]]


@pytest.mark.parametrize("pool", [ops.max_pool, ops.avg_pool])
def test_transformations(pool):
    def f(x):
        return pool(x, 3, strides=2, padding=1)

    x = jnp.asarray(draw((2, 7, 6, 2)))
    check_grads(jax.jit(f), (x,), order=2, modes=("fwd", "rev"), eps=1e-3, atol=2e-2, rtol=2e-2)
    stacked = jnp.stack([x, -x, 2 * x])
    np.testing.assert_allclose(jax.vmap(f)(stacked), jnp.stack([f(s) for s in stacked]), rtol=1e-6)
    expected = jax.grad(lambda x: (f(x) ** 2).sum())(x)
    for transformed in (jax.checkpoint(f), jax.jit(f)):
        np.testing.assert_allclose(jax.grad(lambda x, f=transformed: (f(x) ** 2).sum())(x), expected, rtol=1e-6)
    hessian = jax.hessian(lambda v: (f(v.reshape(x.shape)) ** 2).sum())(x.ravel())
    rows = jax.jacfwd(jax.grad(lambda v: (f(v.reshape(x.shape)) ** 2).sum()))(x.ravel())
    np.testing.assert_allclose(hessian, rows, rtol=1e-5)
    scanned = jax.jit(lambda xs: lax.scan(lambda c, x: (c, f(x)), 0, xs)[1])(stacked)
    np.testing.assert_allclose(scanned, jax.vmap(f)(stacked), rtol=1e-6)
    exported = jax.export.export(jax.jit(f))(x)
    np.testing.assert_allclose(exported.call(x), f(x), rtol=1e-6)


@pytest.mark.parametrize(
    ("pool", "forward", "backward"),
    [(ops.max_pool, "reduce_window", "select_and_scatter"), (ops.avg_pool, "reduce_window", "stablehlo.pad")],
)
def test_accelerators_get_their_own_window_op(pool, forward, backward):
    x = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32)
    traced = jax.jit(lambda x: pool(x, 2)).trace(x)
    gradient = jax.jit(jax.grad(lambda x: pool(x, 2).sum())).trace(x)
    for platform in ("cuda", "tpu"):
        assert forward in traced.lower(lowering_platforms=(platform,)).as_text()
        assert backward in gradient.lower(lowering_platforms=(platform,)).as_text()
    for one in (traced, gradient):
        text = one.lower(lowering_platforms=("cpu",)).as_text()
        assert "reduce_window" not in text
        assert "select_and_scatter" not in text


@COMMON
@given(IMAGES, st.tuples(st.integers(1, 8), st.integers(1, 8)))
def test_adaptive_avg_pool_equals_a_loop(shape, output_size):
    x = draw(shape)
    truth = np.empty((shape[0], *output_size, shape[3]))
    for i in range(output_size[0]):
        for j in range(output_size[1]):
            a, b = (i * shape[1] // output_size[0], -(-(i + 1) * shape[1] // output_size[0]))
            c, d = (j * shape[2] // output_size[1], -(-(j + 1) * shape[2] // output_size[1]))
            truth[:, i, j] = x[:, a:b, c:d].astype(np.float64).mean((1, 2))
    oracles.close(jax.jit(lambda x: ops.adaptive_avg_pool(x, output_size))(x), truth, 1e-6)


def test_global_avg_pool():
    x = draw((3, 7, 5, 2))
    oracles.close(ops.global_avg_pool(x), x.astype(np.float64).mean((1, 2)), 1e-6)
    oracles.close(ops.adaptive_avg_pool(x, 1)[:, 0, 0], x.astype(np.float64).mean((1, 2)), 1e-6)


@settings(max_examples=60, deadline=None)
@given(IMAGES, WINDOWS, STRIDES, PADDINGS, st.booleans())
def test_sizes_equal_shapes(shape, window, strides, padding, ceil_mode):
    if usable(shape, window, strides, padding, ceil_mode) is None:
        return
    sides = (padding, padding) if isinstance(padding, str | int) else padding
    expected = [
        shapes.conv_output_size(n, k, s, p, ceil_mode=ceil_mode)
        for n, k, s, p in zip(shape[1:3], window, strides, sides)
    ]
    y = jax.eval_shape(
        lambda x: ops.max_pool(x, window, strides=strides, padding=padding, ceil_mode=ceil_mode),
        jax.ShapeDtypeStruct(shape, jnp.float32),
    )
    assert list(y.shape[1:3]) == expected


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ops.max_pool(jnp.ones((8, 8, 3)), 2), ValueError, "max_pool: expected x of rank 4"),
        (lambda: ops.max_pool(jnp.ones((1, 8, 8, 3)), 9), ValueError, "kernel 9"),
        (lambda: ops.max_pool(jnp.ones((1, 8, 8, 3)), 2, padding=2), ValueError, "smaller than the window"),
        (lambda: ops.max_pool(jnp.ones((1, 8, 8, 3)), (2, 0)), ValueError, "positive integers"),
        (lambda: ops.avg_pool(jnp.ones((1, 8, 8, 3), jnp.int32), 2), TypeError, "floating"),
        (lambda: ops.global_avg_pool(jnp.ones((8, 8))), ValueError, "rank 4"),
        (lambda: ops.max_pool(jnp.ones((1, 8, 8, 3), bool), 2), TypeError, "numeric"),
        (lambda: ops.max_pool("image", 2), TypeError, "numeric array"),
        (lambda: ops.avg_pool(jnp.ones((1, 8, 8, 3)), 2, padding=((1, 2), (3,))), ValueError, "two pairs"),
        (lambda: ops.avg_pool(jnp.ones((1, 8, 8, 3)), 2, padding=1.5), ValueError, "two pairs"),
        (lambda: ops.max_pool(jnp.ones((1, 8, 8, 3)), 2.5), ValueError, "got 2.5"),
        (lambda: ops.max_pool(jnp.ones((1, 8, 8, 3)), "2"), ValueError, "got '2'"),
        (lambda: ops.max_pool(jnp.ones((1, 8, 8, 3)), 2, padding=-9), ValueError, "Cut off fewer pixels"),
        (lambda: ops.adaptive_avg_pool(jnp.ones((1, 8, 8, 3)), 0), ValueError, "positive integers"),
        (lambda: ops.adaptive_avg_pool(jnp.ones((8, 8, 3)), 2), ValueError, "rank 4"),
        (lambda: ops.adaptive_avg_pool(jnp.ones((1, 0, 8, 3)), 2), ValueError, "at least one pixel"),
        (lambda: ops.global_avg_pool(jnp.ones((1, 8, 0, 3))), ValueError, "at least one pixel"),
        (lambda: ops.adaptive_max_pool(jnp.ones((1, 8, 8, 3)), 0), ValueError, "positive integers"),
        (lambda: ops.max_pool(jnp.ones((1, 8, 8, 3)), 2, dilation=0), ValueError, "dilation of one or two positive"),
        (lambda: ops.avg_pool(jnp.ones((1, 1, 8, 3)), 2, padding=1, dilation=2), ValueError, "padding alone"),
        (lambda: ops.local_response_norm(jnp.ones((8, 8, 3))), ValueError, "rank 4"),
    ],
)
def test_bad_input_gets_one_sentence(call, error, text):
    with pytest.raises(error, match=r"^\w+: expected .*\.") as caught:
        call()
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
