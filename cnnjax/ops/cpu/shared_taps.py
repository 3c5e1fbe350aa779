"""Kernel gradients of narrow convolutions as one square matrix product: both operands carry a share of the taps.

The images are laid out once for each column of the kernel, the outputs' gradients once for each row. Their product over
all pixels then holds every tap, and KW + KH copies are made in place of im2col's KH * KW. A row of zeros beside the
gradients meets pixels that no window of that tap reads, so that a non-finite one spreads.
"""

import jax.numpy as jnp
from jax import lax

from cnnjax.ops.cpu import blocks
from cnnjax.ops.cpu.blocks import noinline
from cnnjax.ops.cpu.spec import ConvSpec

_BLOCK_BYTES = 2 << 20  # of both copies: measured, twice as much leaves the cache


@noinline
def _padded(x, i, *, spec: ConvSpec, images: int):
    return blocks.padded(blocks.pick(x, i, images), spec.padding)


@noinline
def _columns(x, *, spec: ConvSpec):
    """Return the pixels under each of the kernel's columns, of padded images, side by side: `[n * H * W', KW * C]`."""
    columns, (_, kw, channels, _) = spec.output_sizes[1], spec.kernel_shape
    starts = range(0, kw * spec.dilation[1], spec.dilation[1])
    return jnp.concatenate([x[:, :, start : start + columns] for start in starts], axis=3).reshape(-1, kw * channels)


@noinline
def _rows(g, *, spec: ConvSpec, height: int):
    """Return the gradients as each of the kernel's rows meets them, side by side: `[n * height * W', KH * O]`."""
    kh, features = spec.kernel_shape[0], g.shape[3]
    zero, starts = jnp.zeros((), g.dtype), range(0, kh * spec.dilation[0], spec.dilation[0])
    around = [(start, height - g.shape[1] - start, 0) for start in starts]
    taps = [lax.pad(g, zero, ((0, 0, 0), rows, (0, 0, 0), (0, 0, 0))) for rows in around]
    return jnp.concatenate(taps, axis=3).reshape(-1, kh * features)


def kernel_grad(x, g, spec: ConvSpec):
    """Return the gradient of the kernel of a convolution of stride 1."""
    kh, kw, channels, features = spec.kernel_shape
    height = spec.input_shape[1] + sum(spec.padding[0])

    floats = height * spec.output_sizes[1] * (kw * channels + kh * features)
    images = blocks.divisor(spec.input_shape[0], _BLOCK_BYTES // (4 * floats))

    def product(i):
        pixels = _columns(_padded(x, i, spec=spec, images=images), spec=spec)
        return blocks.tall_product(pixels, _rows(blocks.part(g, i, size=images), spec=spec, height=height))

    sums = blocks.summed(product, spec.input_shape[0], images)
    return sums.reshape(kw, channels, kh, features).transpose(2, 0, 1, 3)
