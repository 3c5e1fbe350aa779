"""Every CPU algorithm in every role, whatever the rule says, against numpy in float64."""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cnnjax.ops import cpu
from cnnjax.ops.cpu import banded, blocks, direct, matmul, shared_taps, winograd
from tests.ops import oracles

ALGORITHMS = [(algorithm, role) for algorithm in (banded, direct) for role in cpu.ROLES]

PROBLEMS = st.builds(
    cpu.ConvSpec,
    lhs_shape=st.tuples(st.integers(1, 4), st.integers(3, 12), st.integers(3, 12), st.integers(1, 5)),
    rhs_shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.just(0), st.integers(1, 6)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 5)),
    padding=st.tuples(*[st.tuples(st.integers(0, 2), st.integers(-1, 2))] * 2),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
).map(
    lambda p: cpu.ConvSpec(
        p.lhs_shape, (*p.rhs_shape[:2], p.lhs_shape[3], p.rhs_shape[3]), p.strides, p.padding, p.dilation
    )
)


def check(algorithm, role, problem, tolerance=1e-5):
    rng = np.random.default_rng(0)
    x, k, g = (rng.normal(size=s).astype(np.float32) for s in (problem.lhs_shape, problem.rhs_shape, problem.out_shape))
    operands = {"out": (x, k), "lhs": (g, k), "rhs": (x, g)}[role]
    ours = jax.jit(lambda a, b: getattr(algorithm, role)(a, b, problem))(*operands)
    lhs, rhs = oracles.taps_gradients(x, k, g, problem)
    oracles.close(ours, {"out": oracles.taps_conv(x, k, problem), "lhs": lhs, "rhs": rhs}[role], tolerance)


@pytest.mark.parametrize(("algorithm", "role"), ALGORITHMS)
@given(problem=PROBLEMS)
def test_every_role_equals_numpy_in_float64(algorithm, role, problem):
    sizes = [n + low + high for n, (low, high) in zip(problem.lhs_shape[1:3], problem.padding)]
    if min(problem.out_sizes) < 1 or min(sizes) < 1:
        return
    check(algorithm, role, problem)


@pytest.mark.parametrize("every_core", [True, False])
@pytest.mark.parametrize("role", cpu.ROLES)
@settings(max_examples=10)
@given(problem=PROBLEMS)
@example(
    problem=cpu.ConvSpec((2, 2, 3, 4), (3, 3, 4, 5), (1, 1), ((1, 1), (1, 1)), (1, 1))
)  # a kernel beyond its image
@example(problem=cpu.ConvSpec((2, 6, 5, 4), (2, 3, 4, 5), (2, 3), ((-1, 2), (0, 1)), (2, 1)))
def test_dilated_images_mean_the_same_convolution(role, problem, every_core):
    if (
        min(problem.out_sizes) < 1
        or min(n + sum(edges) for n, edges in zip(problem.lhs_shape[1:3], problem.padding)) < 1
    ):
        return
    with pytest.MonkeyPatch.context() as patch:  # at every size
        patch.setattr(direct, "_pays", lambda channels, features, problem: every_core)
        patch.setattr(direct, "_pays_for_kernels", lambda problem: every_core)
        check(direct, role, problem)


@pytest.mark.parametrize(("size", "channels", "features"), [(14, 64, 48), (2, 160, 120)])
def test_what_xla_would_do_on_one_core_or_in_a_loop_has_dilated_images(size, channels, features):
    """The compiled program's own words; YNNPACK would be a fusion."""
    problem = cpu.ConvSpec((64, size, size, channels), (3, 3, channels, features), (1, 1), ((1, 1), (1, 1)), (1, 1))
    for role in cpu.ROLES:
        assert cpu.choose(role, problem) is getattr(direct, role)
        a, b = {"out": (problem.lhs_shape, problem.rhs_shape), "lhs": (problem.out_shape, problem.rhs_shape)}.get(
            role, (problem.lhs_shape, problem.out_shape)
        )
        shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in (a, b)]
        program = jax.jit(partial(getattr(direct, role), problem=problem)).lower(*shapes).compile().as_text()
        (window,) = re.findall(r" convolution\(.*?window=\{(.*?)\}", program)
        assert "lhs_dilate=2x1" in window
        assert "ynn" not in program
        check(direct, role, problem)


@given(problem=PROBLEMS, images=st.integers(1, 2))
def test_shared_taps_equal_numpy_in_float64(problem, images):
    problem = dataclasses.replace(problem, strides=(1, 1))
    sizes = [n + low + high for n, (low, high) in zip(problem.lhs_shape[1:3], problem.padding)]
    if min(*problem.out_sizes, *sizes) < 1:
        return
    with pytest.MonkeyPatch.context() as patch:  # in blocks, and whole
        patch.setattr(shared_taps.blocks, "divisor", lambda batch, most: images if batch % images == 0 else batch)
        check(shared_taps, "rhs", problem)


LENET = [
    cpu.ConvSpec((32, 28, 28, 1), (5, 5, 1, 6), (1, 1), ((2, 2), (2, 2)), (1, 1)),
    cpu.ConvSpec((96, 14, 14, 6), (5, 5, 6, 16), (1, 1), ((0, 0), (0, 0)), (1, 1)),
]


@pytest.mark.parametrize("role", cpu.ROLES)
@given(problem=PROBLEMS)
def test_one_by_one_equals_numpy_in_float64(role, problem):
    one = dataclasses.replace(problem, rhs_shape=(1, 1, *problem.rhs_shape[2:]))
    if min(one.out_sizes) >= 1:
        check(matmul, role, one)


def three_by_three(problem):
    return cpu.ConvSpec(problem.lhs_shape, (3, 3, *problem.rhs_shape[2:]), (1, 1), problem.padding, (1, 1))


@settings(max_examples=10)
@given(problem=PROBLEMS, role=st.sampled_from(cpu.ROLES), m=st.sampled_from([(2, 2), (2, 4), (4, 4)]))
@example(problem=cpu.ConvSpec((4, 5, 9, 3), (3, 3, 3, 2), (1, 1), ((1, 0), (2, 1)), (1, 1)), role="out", m=(4, 4))
@example(problem=cpu.ConvSpec((4, 9, 5, 2), (3, 3, 2, 3), (1, 1), ((0, 0), (1, 1)), (1, 1)), role="lhs", m=(4, 4))
@example(problem=cpu.ConvSpec((4, 7, 7, 3), (3, 3, 3, 3), (1, 1), ((1, 1), (-1, 2)), (1, 1)), role="rhs", m=(4, 4))
def test_winograd_in_blocks_equals_numpy_in_float64(problem, role, m):
    problem = three_by_three(problem)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "tiles", lambda problem: m)
        patch.setattr(winograd, "_pieces", lambda problem, m: blocks.divisor(problem.lhs_shape[0], 2))
        if min(problem.out_sizes) >= 1:
            check(winograd, role, problem)


SAME = ((1, 1), (1, 1))
RESNET = [
    cpu.ConvSpec((8, 16, 16, 192), (3, 3, 192, 208), (1, 1), SAME, (1, 1)),
    cpu.ConvSpec((32, 4, 4, 256), (3, 3, 256, 192), (1, 1), SAME, (1, 1)),
]


@pytest.mark.slow
@pytest.mark.parametrize("role", cpu.ROLES)
@pytest.mark.parametrize("problem", RESNET)
def test_winograd_of_many_channels(role, problem):
    assert cpu.choose(role, problem) is getattr(winograd, role)
    check(winograd, role, problem)


def test_winograd_is_for_many_tiles_of_plain_convolutions():
    one, many = (cpu.ConvSpec((n, 7, 7, 192), (3, 3, 192, 192), (1, 1), SAME, (1, 1)) for n in (1, 32))
    others = [{"strides": (2, 2)}, {"dilation": (2, 2)}, {"rhs_shape": (5, 5, 192, 192)}]
    others += [{"rhs_shape": (3, 3, 96, 192)}, {"lhs_shape": (2, 224, 224, 192)}]
    for role in cpu.ROLES:
        assert cpu.choose(role, many) is getattr(winograd, role)
        # One image's kernel gradient keeps few cores busy otherwise.
        assert cpu.choose(role, one) is getattr(winograd if role == "rhs" else direct, role)
        for other in others:
            assert cpu.choose(role, dataclasses.replace(many, **other)) is getattr(direct, role)
        exact = cpu.choose(role, dataclasses.replace(many, exact=True))
        assert exact is (None if role == "rhs" else getattr(direct, role))


def test_a_stage_stays_a_call_and_equal_ones_are_one_function():
    problem = RESNET[1]
    problem = dataclasses.replace(problem, rhs_shape=(3, 3, 256, 256))
    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in (problem.lhs_shape, problem.rhs_shape)]
    lowered = jax.jit(lambda x, k: winograd.out(winograd.out(x, k, problem), k, problem)).lower(*shapes).as_text()
    once = jax.jit(lambda x, k: winograd.out(x, k, problem)).lower(*shapes).as_text()
    assert once.count("inlineable") > 0
    assert lowered.count("func.func private") == once.count("func.func private")


@pytest.mark.parametrize(("exact", "strides"), [(False, 1), (True, 2)])
def test_one_by_one_is_always_a_product(exact, strides):
    problem = cpu.ConvSpec((1, 9, 8, 16), (1, 1, 16, 4), (strides, strides), ((0, 0), (0, 0)), (1, 1), exact=exact)
    assert [cpu.choose(role, problem) for role in cpu.ROLES] == [matmul.out, matmul.lhs, matmul.rhs]


@pytest.mark.parametrize("role", cpu.ROLES)
@pytest.mark.parametrize("problem", LENET)
def test_lenet_in_blocks(role, problem):
    assert cpu.choose(role, problem) is getattr(banded, role)
    check(banded, role, problem)


def test_a_kernels_gradient_takes_rows_only_where_it_gains():
    taken = [(1, 16, 3), (1, 6, 5), (6, 16, 5), (2, 16, 5)]
    left = [(1, 17, 3), (6, 16, 3), (7, 16, 5), (2, 16, 3), (6, 17, 5)]
    for channels, features, k in taken + left:
        problem = cpu.ConvSpec((8, 28, 28, channels), (k, k, channels, features), (1, 1), ((k // 2,) * 2,) * 2, (1, 1))
        assert (cpu.choose("rhs", problem) is banded.rhs) == ((channels, features, k) in taken), problem
    problem = cpu.ConvSpec((8, 28, 28, 1), (5, 5, 1, 6), (1, 1), ((2, 2), (2, 2)), (1, 1))
    for other in ({"strides": (2, 2)}, {"lhs_shape": (7, 28, 28, 1)}, {"exact": True}, {"dilation": (1, 2)}):
        assert cpu.choose("rhs", dataclasses.replace(problem, **other)) is not banded.rhs


def test_rows_are_laid_once_for_a_convolution_and_its_kernels_gradient():
    problem = LENET[0]
    x, kernel, g = (jnp.ones(shape) for shape in (problem.lhs_shape, problem.rhs_shape, problem.out_shape))

    def laid(f):
        return jax.jit(f).lower(x, kernel, g).compile().as_text().count(" concatenate(")

    def both(x, kernel, g):
        return banded.out(x, kernel, problem), banded.rhs(x, g, problem)

    assert laid(both) == laid(lambda x, kernel, g: banded.out(x, kernel, problem)) > 0


def test_few_channels_share_their_taps():
    """In blocks as the rule makes them, and not where a zero would meet what is not finite."""
    problem = cpu.ConvSpec((16, 32, 32, 16), (3, 3, 16, 16), (1, 1), SAME, (1, 1))
    assert cpu.choose("rhs", problem) is shared_taps.rhs
    check(shared_taps, "rhs", problem)
    assert cpu.choose("rhs", dataclasses.replace(problem, exact=True)) is None
    for other in ({"strides": (2, 2)}, {"rhs_shape": (3, 3, 16, 32)}, {"rhs_shape": (3, 3, 3, 16)}):
        assert cpu.choose("rhs", dataclasses.replace(problem, **other)) is direct.rhs


def test_exact_mode_makes_kernel_gradients_only_where_no_padding_meets_what_is_not_finite():
    for padding, expected in ((SAME, None), (((0, 0), (0, 0)), direct.rhs)):
        problem = cpu.ConvSpec((8, 16, 16, 16), (3, 3, 16, 32), (2, 2), padding, (1, 1), exact=True)
        assert cpu.choose("rhs", problem) is expected


@pytest.mark.parametrize(("size", "window", "roles"), [(2, 3, cpu.ROLES), (1, 3, cpu.ROLES), (5, 1, ("rhs",))])
def test_exact_mode_multiplies_no_padding_with_what_is_not_finite(size, window, roles):
    """A kernel larger than its image, which is otherwise padded first, and the product of a padded 1x1 convolution."""
    x, k, g = (8, size, size, 32), (window, window, 32, 48), (8, *[size + 3 - window] * 2, 48)
    problem = cpu.ConvSpec(x, k, (1, 1), SAME, (1, 1))
    assert problem.out_shape == g
    for role in roles:
        assert cpu.choose(role, problem) is not None
        assert cpu.choose(role, dataclasses.replace(problem, exact=True)) is None


def test_exact_mode_chooses_nothing_that_spreads():
    for problem in LENET:
        exact = cpu.ConvSpec(problem.lhs_shape, problem.rhs_shape, problem.strides, problem.padding, (1, 1), exact=True)
        assert cpu.choose("out", exact) is not banded.out


@pytest.mark.parametrize(
    ("columns", "kernel", "features", "block"),
    [
        *[(28, 5, 6, 14), (28, 5, 16, 7), (10, 5, 16, 5), (24, 5, 6, 12), (26, 5, 6, 13), (17, 5, 6, 17)],
        *[(32, 5, 2, 8), (24, 3, 8, 3), (28, 3, 8, 4)],  # the narrowest: too many zeros, or a narrow kernel
    ],
)
def test_a_wide_kernels_blocks_make_a_product_of_64_columns(columns, kernel, features, block):
    problem = cpu.ConvSpec((8, 9, columns, 1), (3, kernel, 1, features), (1, 1), ((0, 0), (2, kernel - 3)), (1, 1))
    assert banded.block_size(problem) == block
    for role in cpu.ROLES:
        check(banded, role, problem)


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
