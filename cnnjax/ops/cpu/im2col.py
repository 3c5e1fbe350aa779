"""Kernel gradients as one matrix product: the pixels under each tap side by side, times the outputs' gradients.

XLA's own transposes the images first, channels outermost, which takes longer than the convolution where channels are
few or the stride is 2.
"""

import jax.numpy as jnp
from jax import lax

from cnnjax.ops.cpu import blocks
from cnnjax.ops.cpu.problem import Problem
from cnnjax.ops.cpu.stages import stage

_BLOCK_BYTES = 4 << 20  # one cache's worth of patches


def _patches(x, *, problem: Problem):
    """Return the pixels that each window reads, in the order of the kernel's taps: `[N * H' * W', KH * KW * C]`."""
    (rows, columns), (sh, sw), (dh, dw) = problem.out_sizes, problem.strides, problem.dilation
    kh, kw, channels, _ = problem.rhs_shape
    x = blocks.padded(x, problem)
    taps = []
    for top in range(0, kh * dh, dh):
        for left in range(0, kw * dw, dw):
            stop = (x.shape[0], top + (rows - 1) * sh + 1, left + (columns - 1) * sw + 1, channels)
            taps.append(lax.slice(x, (0, top, left, 0), stop, (1, sh, sw, 1)))
    return jnp.concatenate(taps, axis=3).reshape(-1, kh * kw * channels)


def rhs(x, g, problem: Problem):
    """Return the gradient of the kernel."""

    def product(x, g):
        patches = stage(_patches)(x, problem=problem)
        return blocks.tall_product(patches, g.reshape(-1, g.shape[3]))

    kh, kw, channels, _ = problem.rhs_shape
    rows, columns = problem.out_sizes
    images = blocks.divisor(problem.lhs_shape[0], _BLOCK_BYTES // (4 * rows * columns * kh * kw * channels))
    return blocks.total(product, x, g, images).reshape(problem.rhs_shape)
