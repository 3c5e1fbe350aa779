"""Convolutions against jax.lax in float64."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from jax import lax
from jax.test_util import check_grads

from cnnjax import ops, shapes
from cnnjax.ops import bilinear, cpu
from tests.ops import oracles

CASES = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "size": st.tuples(st.integers(3, 13), st.integers(3, 11)),
        "channels": st.sampled_from(
            [(1, 1, 1), (1, 6, 1), (3, 4, 1), (4, 4, 2), (6, 6, 6), (4, 8, 4), (9, 6, 3), (12, 4, 2)]
        ),
        "window": st.tuples(st.integers(1, 5), st.integers(1, 4)),
        "strides": st.sampled_from([1, 2, (1, 3), (5, 4)]),
        "padding": st.sampled_from(["SAME", "VALID", 0, 2, ((0, 1), (2, 0)), ((-1, 2), (0, 0))]),
        "dilation": st.sampled_from([1, 2, (3, 1)]),
    }
)

# Sizes at which a CPU takes an algorithm of its own for each role, which the small ones above do not reach.
FAST = st.one_of(
    st.fixed_dictionaries(
        {  # Winograd, and XLA's own on every core
            "batch": st.sampled_from([8, 9, 16]),
            "size": st.tuples(st.integers(9, 13), st.integers(9, 13)),
            "channels": st.sampled_from([(192, 193, 1), (130, 128, 1), (64, 48, 1)]),
            "window": st.just((3, 3)),
            "strides": st.just(1),
            "padding": st.sampled_from(["SAME", "VALID", ((0, 1), (2, 0))]),
            "dilation": st.just(1),
        }
    ),
    st.fixed_dictionaries(
        {  # banded matrices, shared taps
            "batch": st.integers(8, 12),
            "size": st.tuples(st.integers(9, 14), st.integers(10, 16)),
            "channels": st.sampled_from([(1, 6, 1), (3, 16, 1), (6, 16, 1), (5, 20, 1)]),
            "window": st.sampled_from([(5, 5), (3, 3), (3, 2)]),
            "strides": st.sampled_from([1, 2, (1, 2)]),
            "padding": st.sampled_from(["SAME", "VALID", 2]),
            "dilation": st.sampled_from([1, (2, 1)]),
        }
    ),
    st.fixed_dictionaries(
        {  # matrix products
            "batch": st.integers(1, 3),
            "size": st.tuples(st.integers(3, 9), st.integers(3, 9)),
            "channels": st.sampled_from([(8, 5, 1), (19, 8, 1)]),
            "window": st.just((1, 1)),
            "strides": st.sampled_from([1, 2, (3, 1)]),
            "padding": st.sampled_from(["SAME", 1, ((-1, 0), (0, 2))]),
            "dilation": st.just(1),
        }
    ),
)


def draw(*shapes, dtype: Any = np.float32):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def both(value):
    return (value, value) if isinstance(value, int) else value


def operands(case):
    channels, features, groups = case["channels"]
    x_shape, k_shape = (case["batch"], *case["size"], channels), (*case["window"], channels // groups, features)
    padding = case["padding"]
    if isinstance(padding, int):
        padding = ((padding, padding),) * 2
    sides = (padding,) * 2 if isinstance(padding, str) else padding
    dilation, strides = both(case["dilation"]), both(case["strides"])
    try:
        for n, k, s, p, d in zip(case["size"], case["window"], strides, sides, dilation):
            shapes.window_padding(n, k, s, p, d)
    except ValueError:
        reject()
    return draw(x_shape, k_shape), strides, padding, dilation, groups


@settings(max_examples=25, deadline=None)
@given(CASES)
def test_values_and_gradients_equal_lax_in_float64(case):
    check_values_and_gradients(case)


@settings(max_examples=16, deadline=None)
@given(FAST)
def test_what_a_cpu_computes_itself_equals_lax_in_float64(case):
    (x, k), strides, padding, dilation, _ = operands(case)
    spec = bilinear.cpu_conv_spec(jnp.asarray(x), jnp.asarray(k), strides, padding, **dilated(dilation))
    assume(spec is not None and any(cpu.choose(role, spec) for role in cpu.ROLES))
    check_values_and_gradients(case)


def dilated(rhs_dilation):
    options = ("lhs_dilation", "batch_group_count", "preferred_element_type", "out_sharding")
    given = {"rhs_dilation": rhs_dilation, "dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": 1}
    return dict.fromkeys(options) | {"batch_group_count": 1} | given


def check_values_and_gradients(case):
    (x, k), strides, padding, dilation, groups = operands(case)

    def ours(x, k):
        return ops.conv2d(
            x,
            k,
            strides=case["strides"],
            padding=case["padding"],
            kernel_dilation=case["dilation"],
            feature_group_count=groups,
        )

    truth = oracles.conv(x, k, strides, padding, dilation, groups)
    y = jax.jit(ours)(x, k)
    oracles.close(y, truth)
    g = draw(truth.shape)[0]
    dx, dk = jax.jit(lambda x, k, g: jax.vjp(ours, x, k)[1](g))(x, k, g)
    dx_true, dk_true = oracles.conv_gradients(x, k, g, strides, padding, dilation, groups)
    oracles.close(dx, dx_true)
    oracles.close(dk, dk_true)


@settings(max_examples=200, deadline=None)
@given(CASES)
def test_sizes_equal_eval_shape(case):
    (x, k), strides, padding, dilation, groups = operands(case)
    sides = (padding,) * 2 if isinstance(padding, str) else padding
    y = jax.eval_shape(
        lambda x, k: ops.conv2d(
            x, k, strides=strides, padding=case["padding"], kernel_dilation=dilation, feature_group_count=groups
        ),
        x,
        k,
    )
    assert y.shape[1:3] == tuple(
        shapes.conv_output_size(*numbers) for numbers in zip(case["size"], case["window"], strides, sides, dilation)
    )


def test_drop_in_is_lax_for_any_layout():
    x, k = draw((2, 3, 8, 7), (4, 3, 3, 3))
    cases: tuple[dict[str, Any], ...] = (
        {},
        {"lhs_dilation": (2, 1)},
        {"rhs_dilation": (1, 2), "precision": lax.Precision.HIGHEST},
        {"preferred_element_type": jnp.float32},
        {"dimension_numbers": ("NCHW", "OIHW", "NHWC")},
    )
    for options in cases:
        pads = [(1, 1), (0, 2)] if "lhs_dilation" in options else "SAME"
        y = ops.conv_general_dilated(x, k, (1, 2), pads, **options)
        np.testing.assert_allclose(y, lax.conv_general_dilated(x, k, (1, 2), pads, **options), rtol=1e-5, atol=1e-5)
    x, k = draw((4, 9, 3), (3, 3, 5))
    oned: dict[str, Any] = {"dimension_numbers": ("NHC", "HIO", "NHC")}
    y = ops.conv_general_dilated(x, k, (2,), [(1, 1)], **oned)
    np.testing.assert_allclose(y, lax.conv_general_dilated(x, k, (2,), [(1, 1)], **oned), rtol=1e-5, atol=1e-5)


def test_drop_in_serves_a_foreign_flax_module():
    x = draw((2, 12, 11, 3))[0]
    theirs, ours = (
        nn.Conv(8, (3, 3), strides=2, kernel_dilation=1, conv_general_dilated=conv)
        for conv in (None, ops.conv_general_dilated)
    )
    variables = theirs.init(jax.random.key(0), x)
    assert jax.tree.structure(variables) == jax.tree.structure(ours.init(jax.random.key(0), x))
    oracles.close(ours.apply(variables, x), theirs.apply(variables, x))


def test_convolve2d_is_the_flipped_convolution():
    x, k = draw((2, 9, 8, 3), (3, 4, 3, 5))
    flipped = ops.conv2d(x, k[::-1, ::-1], strides=2, padding=1)
    np.testing.assert_allclose(ops.convolve2d(x, k, strides=2, padding=1), flipped, rtol=1e-6)
    one, kernel = draw((1, 7, 6, 1), (3, 3, 1, 1))
    full = ops.convolve2d(one, kernel, padding=2)[0, :, :, 0]
    truth = np.zeros((9, 8))
    for a in range(3):
        for b in range(3):
            truth[a : a + 7, b : b + 6] += one[0, :, :, 0].astype(np.float64) * kernel[a, b, 0, 0]
    oracles.close(full, truth)


def test_depthwise_convolution_mixes_no_channels():
    x, k, bias = draw((2, 9, 8, 3), (3, 3, 1, 6), (6,))
    y = ops.depthwise_conv2d(x, k, bias, strides=2, padding=1)
    for channel in range(3):
        pair = slice(2 * channel, 2 * channel + 2)
        alone = ops.conv2d(x[..., channel : channel + 1], k[..., pair], bias[pair], strides=2, padding=1)
        np.testing.assert_allclose(y[..., pair], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padding", ["SAME", "VALID", 0, 1, ((0, 1), (2, 1))])
@pytest.mark.parametrize(("strides", "dilation"), [(1, 1), (2, 1), (3, 2), ((1, 2), (2, 1))])
def test_conv_transpose_is_laxs(padding, strides, dilation):
    x, k = draw((2, 5, 6, 3), (3, 4, 3, 2))
    pads = ((padding, padding),) * 2 if isinstance(padding, int) else padding
    truth = lax.conv_transpose(
        x, k, both(strides), pads, rhs_dilation=both(dilation), use_consistent_padding=True, precision="highest"
    )
    y = ops.conv_transpose2d(x, k, strides=strides, padding=padding, kernel_dilation=dilation)
    np.testing.assert_allclose(y, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("strides", "size"), [(1, 9), (2, 9), (2, 10)])
def test_transposed_kernel_gives_the_gradient_of_conv2d(strides, size):
    x, k = draw((2, size, size, 3), (3, 3, 3, 4))
    y, vjp = jax.vjp(lambda x: ops.conv2d(x, k, strides=strides, padding=1), x)
    output_padding = size - shapes.conv_transpose_output_size(y.shape[1], 3, strides, 1)
    up = ops.conv_transpose2d(y, k, strides=strides, padding=1, output_padding=output_padding, transpose_kernel=True)
    np.testing.assert_allclose(up, vjp(y)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "kernel", "groups", "strides", "padding", "output_padding", "dilation"),
    [
        ((5, 7), (3, 4), 1, (2, 3), (1, 2), (1, 2), (1, 1)),
        ((6, 5), (3, 3), 2, (2, 1), (0, 1), (1, 0), (1, 2)),
        ((4, 4), (2, 2), 6, (2, 2), (0, 0), (0, 1), (1, 1)),
        ((5, 6), (3, 2), 3, (1, 1), (1, 0), (0, 0), (2, 1)),
    ],
)
def test_conv_transpose_is_torchs(size, kernel, groups, strides, padding, output_padding, dilation):
    torch = pytest.importorskip("torch")
    x, k, bias = draw((2, *size, 6), (*kernel, 12 // groups, 6), (12,))
    leaves = [torch.tensor(a, requires_grad=True) for a in (x.transpose(0, 3, 1, 2), k.transpose(3, 2, 0, 1))]
    y = torch.nn.functional.conv_transpose2d(
        *leaves, torch.tensor(bias), strides, padding, output_padding, groups, dilation
    )
    ours, vjp = jax.vjp(
        lambda x, k: ops.conv_transpose2d(
            *(x, k, bias),
            strides=strides,
            padding=tuple((side, side) for side in padding),
            kernel_dilation=dilation,
            output_padding=output_padding,
            feature_group_count=groups,
            transpose_kernel=True,
        ),
        *(x, k),
    )
    oracles.close(ours, y.permute(0, 2, 3, 1).detach().numpy(), 1e-5)
    g = draw(ours.shape)[0]
    dx, dk = torch.autograd.grad(y, leaves, torch.tensor(g).permute(0, 3, 1, 2))
    oracles.close(vjp(g)[0], dx.permute(0, 2, 3, 1).numpy(), 1e-5)
    oracles.close(vjp(g)[1], dk.permute(2, 3, 1, 0).numpy(), 1e-5)


@settings(max_examples=12, deadline=None)
@given(
    size=st.tuples(st.integers(1, 6), st.integers(2, 5)),
    window=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    apart=st.sampled_from([(2, 2), (3, 1), (2, 3)]),
    padding=st.tuples(*[st.tuples(st.integers(-1, 4), st.integers(0, 5))] * 2),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 2)),
)
def test_dilated_images_equal_lax_in_float64(size, window, apart, padding, dilation):
    reach = [(n - 1) * s + 1 + sum(p) - (k - 1) * d for n, s, p, k, d in zip(size, apart, padding, window, dilation)]
    aborts = any(k == s and p == (0, 0) for k, s, p in zip(window, apart, padding))  # XLA, which is the truth here
    assume(min(reach) >= 1 and not aborts)
    x, k, g = draw((2, *size, 3), (*window, 3, 4), (2, *reach, 4))
    options = {"lhs_dilation": apart, "rhs_dilation": dilation, "dimension_numbers": ("NHWC", "HWIO", "NHWC")}

    def results(conv, *arrays):
        y, vjp = jax.vjp(lambda x, k: conv(x, k, (1, 1), padding, **options), *arrays[:2])
        return y, *vjp(arrays[2])

    traced = jax.make_jaxpr(lambda x, k: ops.conv_general_dilated(x, k, (1, 1), padding, **options))(x, k)
    assert "role=input_grad" in str(traced)
    with jax.enable_x64(True):
        truth = results(lax.conv_general_dilated, *(a.astype(np.float64) for a in (x, k, g)))
    for found, expected in zip(jax.jit(lambda *a: results(ops.conv_general_dilated, *a))(x, k, g), truth):
        oracles.close(found, expected)


def test_grouped_conv_transpose_takes_the_kernel_as_conv2d_does():
    x, k = draw((2, 5, 4, 6), (3, 2, 3, 8))
    halves = [
        lax.conv_transpose(x[..., 3 * i : 3 * i + 3], k[..., 4 * i : 4 * i + 4], (2, 2), "VALID") for i in range(2)
    ]
    y = ops.conv_transpose2d(x, k, strides=2, padding="VALID", feature_group_count=2)
    oracles.close(y, np.concatenate(halves, 3), 1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_dtypes_are_kept_and_close(dtype):
    x, k, bias = (jnp.asarray(a, dtype) for a in draw((2, 9, 8, 3), (3, 3, 3, 4), (4,)))
    y = ops.conv2d(x, k, bias, strides=2)
    assert y.dtype == dtype
    truth = oracles.conv(x, k, (2, 2), "SAME") + np.asarray(bias, np.float64)
    oracles.close(y, truth, 4 * float(jnp.finfo(dtype).eps))
    gradients = jax.grad(lambda *a: ops.conv2d(*a).astype(jnp.float32).sum(), (0, 1, 2))(x, k, bias)
    assert {g.dtype for g in gradients} == {jnp.dtype(dtype)}


def test_float64():
    with jax.enable_x64(True):
        x, k = draw((2, 9, 8, 3), (3, 3, 3, 4), dtype=np.float64)
        y = ops.conv2d(x, k)
        assert y.dtype == jnp.float64
        oracles.close(y, oracles.conv(x, k, (1, 1), "SAME"), 1e-13)


def test_transformations():
    x, k = map(jnp.asarray, draw((2, 6, 5, 2), (3, 3, 2, 3)))

    def f(x, k):
        return ops.conv2d(x, k, strides=(2, 1), padding=1)

    check_grads(f, (x, k), order=2, modes=("fwd", "rev"), eps=1e-2, atol=2e-2, rtol=2e-2)
    xs, ks = jnp.stack([x, -x]), jnp.stack([k, 2 * k])
    np.testing.assert_allclose(jax.vmap(f)(xs, ks), jnp.stack([f(x, k), -2 * f(x, k)]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(f, (None, 0))(x, ks)[1], 2 * f(x, k), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(f, (0, None))(xs, k)[1], -f(x, k), rtol=1e-5, atol=1e-5)
    expected = jax.grad(lambda k: (f(x, k) ** 2).sum())(k)
    remat = jax.grad(lambda k: (jax.checkpoint(f)(x, k) ** 2).sum())(k)
    np.testing.assert_allclose(remat, expected, rtol=1e-5, atol=1e-5)
    scanned = jax.jit(lambda xs: lax.scan(lambda c, x: (c, f(x, k)), 0, xs)[1])(xs)
    np.testing.assert_allclose(scanned, jax.vmap(f, (0, None))(xs, k), rtol=1e-5, atol=1e-5)
    exported = jax.export.export(jax.jit(f))(x, k)
    np.testing.assert_allclose(exported.call(x, k), f(x, k), rtol=1e-6)


X, K = np.ones((2, 8, 8, 4), np.float32), np.ones((3, 3, 4, 6), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ops.conv2d(np.ones((32, 28, 28), np.float32), K), ValueError, "got shape (32, 28, 28). Add the axis"),
        (lambda: ops.conv2d(X, K[0]), ValueError, "kernel of rank 4"),
        (lambda: ops.conv2d(X[0, ..., :3], K), ValueError, "Add the axis that is missing: x[None]"),
        (lambda: ops.conv2d(X, K[:, :, :3]), ValueError, "third axis 4"),
        (lambda: ops.conv2d(X, K, feature_group_count=4), ValueError, "feature_group_count"),
        (lambda: ops.conv2d(X, K, feature_group_count=0), ValueError, "feature_group_count"),
        (lambda: ops.conv2d(X, K, feature_group_count=None), ValueError, "got None"),
        (lambda: ops.conv2d(X, K, feature_group_count=2.0), ValueError, "got 2.0"),
        (lambda: ops.conv2d(X, K, np.ones(5, np.float32)), ValueError, "bias of shape (6,)"),
        (lambda: ops.conv2d(X, K, padding=-4), ValueError, "leaves pixels"),
        (lambda: ops.conv2d(X[:, :2], K, padding="VALID"), ValueError, "kernel 3"),
        (lambda: ops.conv2d(X, K, strides=(1, 2, 3)), ValueError, "strides"),
        (
            lambda: ops.conv2d(X, K.astype(np.float16)),
            TypeError,
            "one dtype, got float32 and float16. Cast one: kernel.",
        ),
        (lambda: ops.conv2d(X.astype(np.uint8), K), TypeError, "Cast one: x.astype"),
        (lambda: ops.conv2d(X.astype(bool), K), TypeError, "numeric dtype"),
        (lambda: ops.conv2d(X.astype(str), K), TypeError, "numeric array"),
        (lambda: ops.depthwise_conv2d(X, K), ValueError, "kernel [H, W, 1, M * 4] for x of 4 channels"),
        (lambda: ops.depthwise_conv2d(X, K[:, :, :1]), ValueError, "its fourth a multiple of 4"),
        (lambda: ops.conv2d(X, K, kernel_dilation="2"), ValueError, "Write kernel_dilation=2 for both axes, or"),
        (lambda: ops.conv2d(X, K, strides=1.5), ValueError, "strides of one or two positive integers, got 1.5"),
        (lambda: ops.conv2d(X, K, padding=1.5), ValueError, "two pairs, got 1.5"),
        (lambda: ops.convolve2d(X, K, padding=(1, "2")), ValueError, "two pairs"),
        (lambda: ops.conv2d(X, K, padding="FULL"), ValueError, "'FULL'"),
        (lambda: ops.convolve2d(X[0], K), ValueError, "rank 4"),
        (lambda: ops.convolve2d(X, K, padding=-9), ValueError, "Cut off fewer pixels"),
        (lambda: ops.depthwise_conv2d(X.astype(bool), K), TypeError, "numeric dtype"),
        (lambda: ops.conv_transpose2d(X, K, padding=9), ValueError, "nothing left"),
        (lambda: ops.conv_transpose2d(X, K, output_padding=-1), ValueError, "at least 0, got -1"),
        (lambda: ops.conv_transpose2d(X, K, output_padding=(1, 1, 1)), ValueError, "integers of at least 0, got (1"),
        (lambda: ops.conv_transpose2d(X, K, strides=2, output_padding=(1, 2)), ValueError, "below the stride 2, got 2"),
        (lambda: ops.conv_transpose2d(X, K, feature_group_count=3), ValueError, "feature_group_count to divide the 4"),
        (lambda: ops.max_pool(X * 1j, 2), TypeError, "a real dtype, got complex64"),
        (lambda: ops.conv_transpose2d(X, "kernel", transpose_kernel=True), TypeError, "kernel to be a numeric array"),
        (lambda: ops.conv_transpose2d(X, K[0], transpose_kernel=True), ValueError, "kernel of rank 4"),
        (lambda: ops.conv_transpose2d(X[..., :3], K), ValueError, "third axis 3"),
        (
            lambda: ops.conv_transpose2d(X[..., :3], K, transpose_kernel=True),
            ValueError,
            "Make the kernel's fourth axis 3",
        ),
    ],
)
def test_bad_input_gets_one_sentence(call, error, text):
    with pytest.raises(error, match=r"^\w+: expected .*\.") as caught:
        call()
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("padding", [1, (1, 1), [(1.5, 1.0), (1, 1)], [(1, 1, 1), (1, 1, 1)], [(1, 1)]])
def test_drop_in_refuses_what_lax_refuses_in_its_words(padding):
    def refused(conv):
        with pytest.raises((TypeError, ValueError)) as caught:
            conv(X, K, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return caught.type, str(caught.value)

    assert refused(ops.conv_general_dilated) == refused(lax.conv_general_dilated)


@pytest.mark.parametrize("precision", ["bogus", ("high", "bogus"), ["high"] * 3, 7])
def test_drop_in_refuses_what_is_no_precision(precision):
    for conv in (ops.conv_general_dilated, lax.conv_general_dilated):
        with pytest.raises((TypeError, ValueError), match=r"[Pp]recision"):
            conv(X, K, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=precision)


def test_drop_in_takes_precision_as_a_list():
    layout = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": ["highest", "highest"]}
    y = ops.conv_general_dilated(X, K, (1, 1), "SAME", **layout)
    oracles.close(y, lax.conv_general_dilated(X, K, (1, 1), "SAME", **layout))


def test_numpys_integers_are_integers():
    plain = ops.conv2d(X, K, strides=2, padding=1)
    np.testing.assert_array_equal(ops.conv2d(X, K, strides=jnp.array(2), padding=1), plain)
    numbers = np.int64(2), np.array([1, 1])
    np.testing.assert_array_equal(ops.conv2d(X, K, strides=numbers[0], padding=numbers[1]), plain)
