"""Narrow convolutions as one matrix product a row: the kernel, spread into a banded matrix.

A piece of a row, all its columns and channels, is one contiguous vector; the taps of one kernel row map it to a block
of output columns. Such a matrix is about half zeros, but nothing is copied in pieces of a few numbers, which is what
makes convolutions of few channels slow, and it stays fast inside a scan. Zero times infinity being NaN, a non-finite
pixel spreads over its block.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops.cpu.problem import Problem
from cnnjax.ops.cpu.stages import stage


def _span(problem: Problem, block: int) -> int:
    """Return how many input columns a block of output columns reads."""
    return (block - 1) * problem.strides[1] + (problem.rhs_shape[1] - 1) * problem.dilation[1] + 1


def _selector(problem: Problem, block: int) -> np.ndarray:
    """Return `[KW, span, block]`, one where tap b of output column j reads input column i."""
    tap, column = np.mgrid[: problem.rhs_shape[1], :block]
    read = column * problem.strides[1] + tap * problem.dilation[1]
    return (np.arange(_span(problem, block))[None, :, None] == read[:, None, :]).astype(np.float32)


def _band(kernel, problem: Problem, block: int):
    """Spread the kernel: `[KH * span * C, block * O]`."""
    spread = jnp.einsum("abco,bij->aicjo", kernel, _selector(problem, block))
    a, i, c, j, o = spread.shape
    return spread.reshape(a * i * c, j * o)


def _rows(x, problem: Problem, block: int):
    """Lay the KH pieces of rows that each block of outputs reads side by side: `[N * H' * blocks, KH * span * C]`."""
    batch, height, width, channels = x.shape
    (rows, columns), (sh, sw), dh = problem.out_sizes, problem.strides, problem.dilation[0]
    (top, bottom), (left, right) = problem.padding
    edges = ((0, 0, 0), (top, bottom, 0), (left * channels, right * channels, 0))
    x = lax.pad(x.reshape(batch, height, width * channels), jnp.zeros((), x.dtype), edges)
    pieces = []
    for start in range(0, columns * sw * channels, block * sw * channels):
        stop = start + _span(problem, block) * channels
        for row in range(0, problem.rhs_shape[0] * dh, dh):
            pieces.append(lax.slice(x, (0, row, start), (batch, row + (rows - 1) * sh + 1, stop), (1, sh, 1)))
    return jnp.concatenate(pieces, axis=2).reshape(batch * rows * (columns // block), -1)


def block_size(problem: Problem) -> int:
    """Return how many output columns one product makes: the divisor of them next above the kernel's width.

    Wider blocks multiply more zeros, narrower ones copy each pixel more often.
    """
    columns, taps = problem.out_sizes[1], problem.rhs_shape[1]
    return next(block for block in range(min(taps, columns), columns + 1) if columns % block == 0)


# Each is a stage: a product that reads ten pieces of its operand would have XLA compute that operand, a pool and all
# before it, ten times. LeNet-5's step at batch 256: 61 ms of processor time without, 44 with.
def out(x, kernel, problem: Problem):
    """Return the convolution."""
    return stage(_out)(x, kernel, problem=problem)


def lhs(g, kernel, problem: Problem):
    """Return the gradient of the images."""
    return stage(_lhs)(g, kernel, problem=problem)


def _out(x, kernel, *, problem: Problem):
    block = block_size(problem)
    return (_rows(x, problem, block) @ _band(kernel, problem, block)).reshape(problem.out_shape)


def _lhs(g, kernel, *, problem: Problem):
    block = block_size(problem)
    pieces = g.reshape(-1, block * g.shape[3]) @ _band(kernel, problem, block).T
    images = jax.ShapeDtypeStruct(problem.lhs_shape, g.dtype)
    return jax.linear_transpose(lambda x: _rows(x, problem, block), images)(pieces)[0]
