"""Every CPU algorithm in every role, whatever the rule says, against numpy in float64."""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from cnnjax.ops import cpu
from cnnjax.ops.cpu import banded, blocks, direct, matmul, shared_taps, winograd
from tests.ops import oracles

ALGORITHMS = [(algorithm, role) for algorithm in (banded, direct) for role in cpu.ROLES]

SPECS = st.builds(
    cpu.ConvSpec,
    input_shape=st.tuples(st.integers(1, 4), st.integers(3, 12), st.integers(3, 12), st.integers(1, 5)),
    kernel_shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.just(0), st.integers(1, 6)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 5)),
    padding=st.tuples(*[st.tuples(st.integers(0, 2), st.integers(-1, 2))] * 2),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
).map(
    lambda p: cpu.ConvSpec(
        p.input_shape, (*p.kernel_shape[:2], p.input_shape[3], p.kernel_shape[3]), p.strides, p.padding, p.dilation
    )
)


def check(algorithm, role, spec, tolerance=1e-5):
    rng = np.random.default_rng(0)
    x, k, g = (rng.normal(size=s).astype(np.float32) for s in (spec.input_shape, spec.kernel_shape, spec.output_shape))
    operands = {"forward": (x, k), "input_grad": (g, k), "kernel_grad": (x, g)}[role]
    ours = jax.jit(lambda a, b: getattr(algorithm, role)(a, b, spec))(*operands)
    dx, dk = oracles.taps_gradients(x, k, g, spec)
    truth = {"forward": oracles.taps_conv(x, k, spec), "input_grad": dx, "kernel_grad": dk}[role]
    oracles.close(ours, truth, tolerance)


@pytest.mark.parametrize(("algorithm", "role"), ALGORITHMS)
@given(spec=SPECS)
def test_every_role_equals_numpy_in_float64(algorithm, role, spec):
    sizes = [n + low + high for n, (low, high) in zip(spec.input_shape[1:3], spec.padding)]
    if min(spec.output_sizes) < 1 or min(sizes) < 1:
        return
    check(algorithm, role, spec)


@pytest.mark.parametrize("every_core", [True, False])
@pytest.mark.parametrize("role", cpu.ROLES)
@settings(max_examples=10)
@given(spec=SPECS)
@example(spec=cpu.ConvSpec((2, 2, 3, 4), (3, 3, 4, 5), (1, 1), ((1, 1), (1, 1)), (1, 1)))  # a kernel beyond its image
@example(spec=cpu.ConvSpec((2, 6, 5, 4), (2, 3, 4, 5), (2, 3), ((-1, 2), (0, 1)), (2, 1)))
def test_dilated_images_mean_the_same_convolution(role, spec, every_core):
    if min(spec.output_sizes) < 1 or min(n + sum(edges) for n, edges in zip(spec.input_shape[1:3], spec.padding)) < 1:
        return
    with pytest.MonkeyPatch.context() as patch:  # at every size
        patch.setattr(direct, "_pays", lambda channels, features, macs: every_core)
        patch.setattr(direct, "_pays_for_kernels", lambda spec: every_core)
        check(direct, role, spec)


@pytest.mark.parametrize(("size", "channels", "features"), [(14, 64, 48), (2, 160, 120)])
def test_what_xla_would_do_on_one_core_or_in_a_loop_has_dilated_images(size, channels, features):
    """The compiled program's own words; YNNPACK would be a fusion."""
    spec = cpu.ConvSpec((64, size, size, channels), (3, 3, channels, features), (1, 1), ((1, 1), (1, 1)), (1, 1))
    for role in cpu.ROLES:
        assert cpu.choose(role, spec) is getattr(direct, role)
        x, k, g = spec.input_shape, spec.kernel_shape, spec.output_shape
        a, b = {"forward": (x, k), "input_grad": (g, k), "kernel_grad": (x, g)}[role]
        shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in (a, b)]
        program = jax.jit(partial(getattr(direct, role), spec=spec)).lower(*shapes).compile().as_text()
        (window,) = re.findall(r" convolution\(.*?window=\{(.*?)\}", program)
        assert "lhs_dilate=2x1" in window
        assert "ynn" not in program
        check(direct, role, spec)


@given(spec=SPECS, images=st.integers(1, 2))
def test_shared_taps_equal_numpy_in_float64(spec, images):
    spec = dataclasses.replace(spec, strides=(1, 1))
    sizes = [n + low + high for n, (low, high) in zip(spec.input_shape[1:3], spec.padding)]
    if min(*spec.output_sizes, *sizes) < 1:
        return
    with pytest.MonkeyPatch.context() as patch:  # in blocks, and whole
        patch.setattr(shared_taps.blocks, "divisor", lambda batch, most: images if batch % images == 0 else batch)
        check(shared_taps, "kernel_grad", spec)


@pytest.mark.parametrize("role", cpu.ROLES)
@settings(max_examples=15)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(3, 9), st.integers(3, 20)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    groups=st.sampled_from([(3, 1, 1), (9, 1, 1), (4, 1, 3), (2, 3, 2), (6, 4, 4), (12, 5, 3), (2, 17, 16), (5, 2, 1)]),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(*[st.tuples(st.integers(-1, 4), st.integers(-1, 3))] * 2),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 3)),
)
def test_grouped_and_depthwise_equal_lax_in_float64(role, size, kernel, groups, strides, padding, dilation):
    (batch, *sizes), (count, channels, features) = size, groups
    input_shape, kernel_shape = (batch, *sizes, count * channels), (*kernel, channels, count * features)
    spec = cpu.ConvSpec(input_shape, kernel_shape, strides, padding, dilation, count)
    assume(min(*spec.output_sizes, *(n + low + high for n, (low, high) in zip(sizes, padding))) >= 1)
    rng = np.random.default_rng(0)
    x, k, g = (rng.normal(size=s).astype(np.float32) for s in (input_shape, kernel_shape, spec.output_shape))
    operands = {"forward": (x, k), "input_grad": (g, k), "kernel_grad": (x, g)}[role]
    algorithm, window = cpu.choose(role, spec), (strides, padding, dilation, count)
    assert algorithm is not None
    dx, dk = oracles.conv_gradients(x, k, g, *window)
    truth = {"forward": oracles.conv(x, k, *window), "input_grad": dx, "kernel_grad": dk}[role]
    oracles.close(jax.jit(lambda a, b: algorithm(a, b, spec))(*operands), truth)


def test_exact_mode_lets_nothing_spread_between_groups_or_from_the_padding():
    for groups, padding, roles in ((4, SAME, ()), (4, ((0, 0), (0, 0)), ("forward", "kernel_grad")), (2, SAME, ())):
        spec = cpu.ConvSpec((2, 8, 8, 4), (3, 3, 4 // groups, 4), (1, 1), padding, (1, 1), groups)
        assert all(cpu.choose(role, spec) for role in cpu.ROLES)
        exact = dataclasses.replace(spec, exact=True)
        assert tuple(role for role in cpu.ROLES if cpu.choose(role, exact)) == roles


LENET = [
    cpu.ConvSpec((32, 28, 28, 1), (5, 5, 1, 6), (1, 1), ((2, 2), (2, 2)), (1, 1)),
    cpu.ConvSpec((96, 14, 14, 6), (5, 5, 6, 16), (1, 1), ((0, 0), (0, 0)), (1, 1)),
]


@pytest.mark.parametrize("role", cpu.ROLES)
@given(spec=SPECS)
def test_one_by_one_equals_numpy_in_float64(role, spec):
    one = dataclasses.replace(spec, kernel_shape=(1, 1, *spec.kernel_shape[2:]))
    if min(one.output_sizes) >= 1:
        check(matmul, role, one)


def three_by_three(spec):
    return cpu.ConvSpec(spec.input_shape, (3, 3, *spec.kernel_shape[2:]), (1, 1), spec.padding, (1, 1))


@settings(max_examples=10)
@given(spec=SPECS, role=st.sampled_from(cpu.ROLES), m=st.sampled_from([(2, 2), (2, 4), (4, 4)]))
@example(spec=cpu.ConvSpec((4, 5, 9, 3), (3, 3, 3, 2), (1, 1), ((1, 0), (2, 1)), (1, 1)), role="forward", m=(4, 4))
@example(spec=cpu.ConvSpec((4, 9, 5, 2), (3, 3, 2, 3), (1, 1), ((0, 0), (1, 1)), (1, 1)), role="input_grad", m=(4, 4))
@example(spec=cpu.ConvSpec((4, 7, 7, 3), (3, 3, 3, 3), (1, 1), ((1, 1), (-1, 2)), (1, 1)), role="kernel_grad", m=(4, 4))
def test_winograd_in_blocks_equals_numpy_in_float64(spec, role, m):
    spec = three_by_three(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "tiles", lambda spec: m)
        patch.setattr(winograd, "_pieces", lambda spec, m: blocks.divisor(spec.input_shape[0], 2))
        if min(spec.output_sizes) >= 1:
            check(winograd, role, spec)


SAME = ((1, 1), (1, 1))
RESNET = [
    cpu.ConvSpec((8, 16, 16, 192), (3, 3, 192, 208), (1, 1), SAME, (1, 1)),
    cpu.ConvSpec((32, 4, 4, 256), (3, 3, 256, 192), (1, 1), SAME, (1, 1)),
]


@pytest.mark.slow
@pytest.mark.parametrize("role", cpu.ROLES)
@pytest.mark.parametrize("spec", RESNET)
def test_winograd_of_many_channels(role, spec):
    assert cpu.choose(role, spec) is getattr(winograd, role)
    check(winograd, role, spec)


def test_winograd_is_for_many_tiles_of_plain_convolutions():
    one, many = (cpu.ConvSpec((n, 7, 7, 192), (3, 3, 192, 192), (1, 1), SAME, (1, 1)) for n in (1, 32))
    others = [{"strides": (2, 2)}, {"dilation": (2, 2)}, {"kernel_shape": (5, 5, 192, 192)}]
    others += [{"kernel_shape": (3, 3, 96, 192)}, {"input_shape": (2, 224, 224, 192)}]
    for role in cpu.ROLES:
        assert cpu.choose(role, many) is getattr(winograd, role)
        # One image's kernel gradient keeps few cores busy otherwise.
        assert cpu.choose(role, one) is getattr(winograd if role == "kernel_grad" else direct, role)
        for other in others:
            assert cpu.choose(role, dataclasses.replace(many, **other)) is getattr(direct, role)
        exact = cpu.choose(role, dataclasses.replace(many, exact=True))
        assert exact is (None if role == "kernel_grad" else getattr(direct, role))


def test_a_stage_stays_a_call_and_equal_ones_are_one_function():
    spec = RESNET[1]
    spec = dataclasses.replace(spec, kernel_shape=(3, 3, 256, 256))
    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in (spec.input_shape, spec.kernel_shape)]
    lowered = jax.jit(lambda x, k: winograd.forward(winograd.forward(x, k, spec), k, spec)).lower(*shapes).as_text()
    once = jax.jit(lambda x, k: winograd.forward(x, k, spec)).lower(*shapes).as_text()
    assert once.count("inlineable") > 0
    assert lowered.count("func.func private") == once.count("func.func private")


@pytest.mark.parametrize(("exact", "strides"), [(False, 1), (True, 2)])
def test_one_by_one_is_always_a_product(exact, strides):
    spec = cpu.ConvSpec((1, 9, 8, 16), (1, 1, 16, 4), (strides, strides), ((0, 0), (0, 0)), (1, 1), exact=exact)
    assert [cpu.choose(role, spec) for role in cpu.ROLES] == [matmul.forward, matmul.input_grad, matmul.kernel_grad]


@pytest.mark.parametrize("role", cpu.ROLES)
@pytest.mark.parametrize("spec", LENET)
def test_lenet_in_blocks(role, spec):
    assert cpu.choose(role, spec) is getattr(banded, role)
    check(banded, role, spec)


def test_a_kernels_gradient_takes_rows_only_where_it_gains():
    taken = [(1, 16, 3), (1, 6, 5), (6, 16, 5), (2, 16, 5)]
    left = [(1, 17, 3), (6, 16, 3), (7, 16, 5), (2, 16, 3), (6, 17, 5)]
    for channels, features, k in taken + left:
        spec = cpu.ConvSpec((8, 28, 28, channels), (k, k, channels, features), (1, 1), ((k // 2,) * 2,) * 2, (1, 1))
        assert (cpu.choose("kernel_grad", spec) is banded.kernel_grad) == ((channels, features, k) in taken), spec
    spec = cpu.ConvSpec((8, 28, 28, 1), (5, 5, 1, 6), (1, 1), ((2, 2), (2, 2)), (1, 1))
    for other in ({"strides": (2, 2)}, {"input_shape": (7, 28, 28, 1)}, {"exact": True}, {"dilation": (1, 2)}):
        assert cpu.choose("kernel_grad", dataclasses.replace(spec, **other)) is not banded.kernel_grad


def test_rows_are_laid_once_for_a_convolution_and_its_kernels_gradient():
    spec = LENET[0]
    x, kernel, g = (jnp.ones(shape) for shape in (spec.input_shape, spec.kernel_shape, spec.output_shape))

    def laid(f):
        return jax.jit(f).lower(x, kernel, g).compile().as_text().count(" concatenate(")

    def both(x, kernel, g):
        return banded.forward(x, kernel, spec), banded.kernel_grad(x, g, spec)

    assert laid(both) == laid(lambda x, kernel, g: banded.forward(x, kernel, spec)) > 0


def test_few_channels_share_their_taps():
    """In blocks as the rule makes them, and not where a zero would meet what is not finite."""
    spec = cpu.ConvSpec((16, 32, 32, 16), (3, 3, 16, 16), (1, 1), SAME, (1, 1))
    assert cpu.choose("kernel_grad", spec) is shared_taps.kernel_grad
    check(shared_taps, "kernel_grad", spec)
    assert cpu.choose("kernel_grad", dataclasses.replace(spec, exact=True)) is None
    for other in ({"strides": (2, 2)}, {"kernel_shape": (3, 3, 16, 32)}, {"kernel_shape": (3, 3, 3, 16)}):
        assert cpu.choose("kernel_grad", dataclasses.replace(spec, **other)) is direct.kernel_grad


def test_exact_mode_makes_kernel_gradients_only_where_no_padding_meets_what_is_not_finite():
    for padding, expected in ((SAME, None), (((0, 0), (0, 0)), direct.kernel_grad)):
        spec = cpu.ConvSpec((8, 16, 16, 16), (3, 3, 16, 32), (2, 2), padding, (1, 1), exact=True)
        assert cpu.choose("kernel_grad", spec) is expected


@pytest.mark.parametrize(("size", "window", "roles"), [(2, 3, cpu.ROLES), (1, 3, cpu.ROLES), (5, 1, ("kernel_grad",))])
def test_exact_mode_multiplies_no_padding_with_what_is_not_finite(size, window, roles):
    """A kernel larger than its image, which is otherwise padded first, and the product of a padded 1x1 convolution."""
    x, k, g = (8, size, size, 32), (window, window, 32, 48), (8, *[size + 3 - window] * 2, 48)
    spec = cpu.ConvSpec(x, k, (1, 1), SAME, (1, 1))
    assert spec.output_shape == g
    for role in roles:
        assert cpu.choose(role, spec) is not None
        assert cpu.choose(role, dataclasses.replace(spec, exact=True)) is None


def test_exact_mode_chooses_nothing_that_spreads():
    for spec in LENET:
        exact = cpu.ConvSpec(spec.input_shape, spec.kernel_shape, spec.strides, spec.padding, (1, 1), exact=True)
        assert cpu.choose("forward", exact) is not banded.forward


@pytest.mark.parametrize(
    ("columns", "kernel", "features", "block"),
    [
        *[(28, 5, 6, 14), (28, 5, 16, 7), (10, 5, 16, 5), (24, 5, 6, 12), (26, 5, 6, 13), (17, 5, 6, 17)],
        *[(32, 5, 2, 8), (24, 3, 8, 3), (28, 3, 8, 4)],  # the narrowest: too many zeros, or a narrow kernel
    ],
)
def test_a_wide_kernels_blocks_make_a_product_of_64_columns(columns, kernel, features, block):
    spec = cpu.ConvSpec((8, 9, columns, 1), (3, kernel, 1, features), (1, 1), ((0, 0), (2, kernel - 3)), (1, 1))
    assert banded.block_size(spec) == block
    for role in cpu.ROLES:
        check(banded, role, spec)


@pytest.mark.parametrize(
    ("rows", "columns", "halved"),
    [
        (4096, (64, 80), True),
        (4097, (64, 80), False),
        (4094, (64, 80), False),
        (4096, (63, 80), False),
        (4800, (300, 64), True),
        (4800, (301, 64), False),
    ],
)
def test_tall_products_are_made_in_halves_where_that_gains(rows, columns, halved):
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(size=(rows, n)), jnp.float32) for n in columns)
    assert blocks.tall_product(a.astype(jnp.int8), b.astype(jnp.int8)).dtype == jnp.int8
    jitted = jax.jit(blocks.tall_product)
    oracles.close(jitted(a, b), np.asarray(a, np.float64).T @ np.asarray(b, np.float64), 1e-5)
    assert (f"tensor<2x{rows // 2}x" in jitted.lower(a, b).as_text()) == halved


@given(batch=st.integers(1, 40), most=st.integers(0, 50))
def test_blocks_divide_the_batch(batch, most):
    size = blocks.divisor(batch, most)
    assert batch % size == 0
    assert size <= max(most, 1)
