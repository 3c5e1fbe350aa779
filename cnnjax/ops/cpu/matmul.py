"""The 1x1 convolution as the matrix product that it is."""

import jax.numpy as jnp
from jax import lax

from cnnjax.ops.cpu import blocks
from cnnjax.ops.cpu.problem import ConvSpec


def _read(x, problem: ConvSpec):
    """Return the pixels that the windows read, after padding or cutting, `[N * H', C]`."""
    if any(map(any, problem.padding)):
        x = blocks.padded(x, problem.padding)
    x = lax.slice(x, (0, 0, 0, 0), x.shape, (1, *problem.strides, 1))
    return x.reshape(-1, x.shape[3])


def out(x, kernel, problem: ConvSpec):
    """Return the convolution."""
    return (_read(x, problem) @ kernel[0, 0]).reshape(problem.out_shape)


def lhs(g, kernel, problem: ConvSpec):
    """Return the gradient of the images."""
    channels = problem.lhs_shape[3]
    read = (g.reshape(-1, g.shape[3]) @ kernel[0, 0].T).reshape(*g.shape[:3], channels)
    if problem.strides == (1, 1) and not any(map(any, problem.padding)):
        return read
    edges = [
        (-low, n + low - (m - 1) * s - 1, s - 1)
        for n, m, s, (low, _) in zip(problem.lhs_shape[1:3], g.shape[1:3], problem.strides, problem.padding)
    ]
    return lax.pad(read, jnp.zeros((), g.dtype), ((0, 0, 0), *edges, (0, 0, 0)))


def rhs(x, g, problem: ConvSpec):
    """Return the gradient of the kernel."""
    return blocks.tall_product(_read(x, problem), g.reshape(-1, g.shape[3])).reshape(problem.rhs_shape)
