"""Every CPU algorithm in every role, whatever the rule says, against numpy in float64."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnjax.ops import cpu
from cnnjax.ops.cpu import banded, blocks, matmul
from tests.ops import oracles

ALGORITHMS = [(banded, role) for role in cpu.ROLES]

PROBLEMS = st.builds(
    cpu.Problem,
    lhs_shape=st.tuples(st.integers(1, 4), st.integers(3, 12), st.integers(3, 12), st.integers(1, 5)),
    rhs_shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.just(0), st.integers(1, 6)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 5)),
    padding=st.tuples(*[st.tuples(st.integers(0, 2), st.integers(-1, 2))] * 2),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
).map(
    lambda p: cpu.Problem(
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


LENET = [
    cpu.Problem((32, 28, 28, 1), (5, 5, 1, 6), (1, 1), ((2, 2), (2, 2)), (1, 1)),
    cpu.Problem((96, 14, 14, 6), (5, 5, 6, 16), (1, 1), ((0, 0), (0, 0)), (1, 1)),
]


@pytest.mark.parametrize("role", cpu.ROLES)
@given(problem=PROBLEMS)
def test_one_by_one_equals_numpy_in_float64(role, problem):
    one = dataclasses.replace(problem, rhs_shape=(1, 1, *problem.rhs_shape[2:]))
    if min(one.out_sizes) >= 1:
        check(matmul, role, one)


@pytest.mark.parametrize(("exact", "strides"), [(False, 1), (True, 2)])
def test_one_by_one_is_always_a_product(exact, strides):
    problem = cpu.Problem((1, 9, 8, 16), (1, 1, 16, 4), (strides, strides), ((0, 0), (0, 0)), (1, 1), exact=exact)
    assert [cpu.choose(role, problem) for role in cpu.ROLES] == [matmul.out, matmul.lhs, matmul.rhs]


@pytest.mark.parametrize("role", cpu.ROLES)
@pytest.mark.parametrize("problem", LENET)
def test_lenet_in_blocks(role, problem):
    assert cpu.choose(role, problem) is getattr(banded, role)
    check(banded, role, problem)


def test_exact_mode_chooses_nothing_that_spreads():
    for problem in LENET:
        exact = cpu.Problem(problem.lhs_shape, problem.rhs_shape, problem.strides, problem.padding, (1, 1), exact=True)
        assert cpu.choose("out", exact) is not banded.out


@given(batch=st.integers(1, 40), most=st.integers(0, 50))
def test_blocks_divide_the_batch(batch, most):
    size = blocks.divisor(batch, most)
    assert batch % size == 0
    assert size <= max(most, 1)
