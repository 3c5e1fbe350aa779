"""The 1x1 convolution as the matrix product that it is."""

import jax.numpy as jnp
from jax import lax

from cnnjax.ops.cpu import blocks
from cnnjax.ops.cpu.spec import ConvSpec


def _read(x, spec: ConvSpec):
    """Return the pixels that the windows read, after padding or cutting, `[N * H', C]`."""
    if any(map(any, spec.padding)):
        x = blocks.padded(x, spec.padding)
    x = lax.slice(x, (0, 0, 0, 0), x.shape, (1, *spec.strides, 1))
    return x.reshape(-1, x.shape[3])


def forward(x, kernel, spec: ConvSpec):
    """Return the convolution."""
    return (_read(x, spec) @ kernel[0, 0]).reshape(spec.output_shape)


def input_grad(g, kernel, spec: ConvSpec):
    """Return the gradient of the images."""
    channels = spec.input_shape[3]
    read = (g.reshape(-1, g.shape[3]) @ kernel[0, 0].T).reshape(*g.shape[:3], channels)
    if spec.strides == (1, 1) and not any(map(any, spec.padding)):
        return read
    edges = [
        (-low, n + low - (m - 1) * s - 1, s - 1)
        for n, m, s, (low, _) in zip(spec.input_shape[1:3], g.shape[1:3], spec.strides, spec.padding)
    ]
    return lax.pad(read, jnp.zeros((), g.dtype), ((0, 0, 0), *edges, (0, 0, 0)))


def kernel_grad(x, g, spec: ConvSpec):
    """Return the gradient of the kernel."""
    return blocks.tall_product(_read(x, spec), g.reshape(-1, g.shape[3])).reshape(spec.kernel_shape)
