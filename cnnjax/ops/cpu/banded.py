"""Narrow convolutions as one matrix product a row: the kernel, spread into a banded matrix.

A piece of a row, all its columns and channels, is one contiguous vector; the taps of one kernel row map it to a block
of output columns. Such a matrix is about half zeros, but nothing is copied in pieces of a few numbers, which is what
makes convolutions of few channels slow, and it stays fast inside a scan. The kernel's gradient is the product of the
same pieces and the gradients, summed along the bands. Zero times infinity being NaN, a non-finite pixel spreads over
its block, and in the kernel's gradient over all taps of the rows that it meets.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops.cpu import blocks
from cnnjax.ops.cpu.blocks import noinline
from cnnjax.ops.cpu.spec import ConvSpec


def _span(spec: ConvSpec, block: int) -> int:
    """Return how many input columns a block of output columns reads."""
    return (block - 1) * spec.strides[1] + (spec.kernel_shape[1] - 1) * spec.dilation[1] + 1


def _selector(spec: ConvSpec, block: int) -> np.ndarray:
    """Return `[KW, span, block]`, one where tap b of output column j reads input column i."""
    tap, column = np.mgrid[: spec.kernel_shape[1], :block]
    read = column * spec.strides[1] + tap * spec.dilation[1]
    return (np.arange(_span(spec, block))[None, :, None] == read[:, None, :]).astype(np.float32)


def _band(kernel, spec: ConvSpec, block: int):
    """Spread the kernel: `[KH * span * C, block * O]`."""
    spread = jnp.einsum("abco,bij->aicjo", kernel, _selector(spec, block))
    a, i, c, j, o = spread.shape
    return spread.reshape(a * i * c, j * o)


def _rows(x, spec: ConvSpec, block: int):
    """Lay the KH pieces of rows that each block of outputs reads side by side: `[N * H' * blocks, KH * span * C]`."""
    batch, height, width, channels = x.shape
    (rows, columns), (sh, sw), dh = spec.output_sizes, spec.strides, spec.dilation[0]
    (top, bottom), (left, right) = spec.padding
    edges = ((0, 0, 0), (top, bottom, 0), (left * channels, right * channels, 0))
    x = lax.pad(x.reshape(batch, height, width * channels), jnp.zeros((), x.dtype), edges)
    pieces = []
    for start in range(0, columns * sw * channels, block * sw * channels):
        stop = start + _span(spec, block) * channels
        for row in range(0, spec.kernel_shape[0] * dh, dh):
            pieces.append(lax.slice(x, (0, row, start), (batch, row + (rows - 1) * sh + 1, stop), (1, sh, 1)))
    return jnp.concatenate(pieces, axis=2).reshape(batch * rows * (columns // block), -1)


def narrowest_block(spec: ConvSpec) -> int:
    """Return the divisor of the output columns that is next above the kernel's width."""
    return _divisor(spec, spec.kernel_shape[1])


def block_size(spec: ConvSpec) -> int:
    """Return how many output columns one product makes.

    Wider blocks multiply more zeros, narrower ones copy each pixel more often. Measured: for wide kernels a product of
    64 columns is worth the zeros, for others the narrowest block is best.
    """
    taps, features = spec.kernel_shape[1], spec.kernel_shape[3]
    wide = _divisor(spec, max(taps, -(-64 // features)))
    return wide if taps >= 5 and wide <= 3 * taps else narrowest_block(spec)


def _divisor(spec: ConvSpec, least: int) -> int:
    columns = spec.output_sizes[1]
    return next(block for block in range(min(least, columns), columns + 1) if columns % block == 0)


# A stage: a product that reads ten pieces of its operand would have XLA compute that operand, a pool and all before it,
# ten times. LeNet-5's step at batch 256: 61 ms of processor time without, 44 with. The kernel's gradient asks for the
# same rows as the convolution, and XLA lays them only once.
@noinline
def _laid(x, *, spec: ConvSpec, block: int):
    return _rows(x, spec, block)


def forward(x, kernel, spec: ConvSpec):
    """Return the convolution."""
    block = block_size(spec)
    rows = _laid(x, spec=spec, block=block)
    return noinline(_multiplied)(rows, kernel, spec=spec, block=block)


def kernel_grad(x, g, spec: ConvSpec):
    """Return the gradient of the kernel: what all pixels say of the banded matrix, summed along its bands."""
    block = block_size(spec)
    rows = _laid(x, spec=spec, block=block)
    band = blocks.tall_product(rows, g.reshape(rows.shape[0], -1))
    return noinline(_summed)(band, spec=spec, block=block)


def input_grad(g, kernel, spec: ConvSpec):
    """Return the gradient of the images."""
    return noinline(_input_grad)(g, kernel, spec=spec)


def _multiplied(rows, kernel, *, spec: ConvSpec, block: int):
    return (rows @ _band(kernel, spec, block)).reshape(spec.output_shape)


def _summed(band, *, spec: ConvSpec, block: int):
    kernel = jax.ShapeDtypeStruct(spec.kernel_shape, band.dtype)
    return jax.linear_transpose(lambda kernel: _band(kernel, spec, block), kernel)(band)[0]


def _input_grad(g, kernel, *, spec: ConvSpec):
    block = block_size(spec)
    pieces = g.reshape(-1, block * g.shape[3]) @ _band(kernel, spec, block).T
    images = jax.ShapeDtypeStruct(spec.input_shape, g.dtype)
    return jax.linear_transpose(lambda x: _rows(x, spec, block), images)(pieces)[0]
