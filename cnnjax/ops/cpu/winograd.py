"""3x3 convolutions of stride 1 with 2.25 to 4 times fewer multiplications.

Windows of m + 2 pixels overlap by two; each axis is transformed on its own, pixels and taps meet in one product of
matrices for each of the (m + 2)^2 coefficients, and another transform makes m outputs an axis of them. In an image's
arrays rows come before columns, in those of coefficients the column's comes first, since it is the last one made. A
non-finite pixel spreads over its tile.

References:
  Lavin and Gray, 2015, https://arxiv.org/abs/1509.09308.
"""

import functools
import operator

import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops.cpu import blocks
from cnnjax.ops.cpu.blocks import noinline
from cnnjax.ops.cpu.spec import ConvSpec, Pair
from cnnjax.ops.cpu.toom_cook import TAPS, TILES, filtering

_BLOCK_BYTES = 5 << 20  # coefficients of images and outputs that a block may fill: measured, about a share of the L3
_WORTH = 64  # what making and reading one coefficient of the kernel costs, in multiplications: measured


def tiles(spec: ConvSpec) -> Pair:
    """Return the outputs a tile has on each axis: those that cost least.

    Example:
      >>> tiles(ConvSpec((32, 8, 8, 256), (3, 3, 256, 256), (1, 1), ((1, 1), (1, 1)), (1, 1)))
      (4, 4)
    """
    return min(((m1, m2) for m1 in TILES for m2 in TILES), key=lambda m: (_products(spec, m), m))


def _count(size: int, m: int) -> int:
    return -(-size // m)


def _coefficients(m: Pair) -> int:
    return (m[0] + TAPS - 1) * (m[1] + TAPS - 1)


def _products(spec: ConvSpec, m: Pair) -> int:
    """Return multiplications for a pair of channels, the kernel's transform counted as some."""
    height, width = spec.output_sizes
    rows = spec.input_shape[0] * _count(height, m[0]) * _count(width, m[1])
    return _coefficients(m) * (rows + _WORTH)


def saving(spec: ConvSpec) -> float:
    """Return by how much multiplications fall short of the direct convolution's."""
    height, width = spec.output_sizes
    return TAPS**2 * spec.input_shape[0] * height * width / _products(spec, tiles(spec))


def _mix(matrix, parts, axis: int):
    """Return `sum_a matrix[i, a] * parts[a]`, i on a new axis: all in one pass, whatever the zeros."""

    def term(a):
        column = matrix[:, a].reshape([-1 if i == axis else 1 for i in range(parts[0].ndim + 1)])
        return jnp.expand_dims(parts[a], axis) * column

    return functools.reduce(operator.add, map(term, range(len(parts))))


@noinline
def _pad(x, *, low, sizes):
    """Pad images `[n, H, W, C]` to `sizes`: `[n, rows, columns * C]`, one axis for long copies."""
    width, channels = x.shape[2:]
    x = x.reshape(*x.shape[:2], -1)
    rows = (low[0], sizes[0] - low[0] - x.shape[1], 0)
    columns = (low[1] * channels, (sizes[1] - low[1] - width) * channels, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), rows, columns))


@noinline
def _image_rows(x, *, m):
    """`[n, (tiles + 1) * m, L]` to `[m + 2, n, tiles, L]`."""
    x = x.reshape(x.shape[0], -1, m, x.shape[2])
    count = x.shape[1] - 1
    parts = [x[:, a // m : a // m + count, a % m] for a in range(m + 2)]
    return _mix(filtering(m).image, parts, 0)


@noinline
def _image_columns(x, *, m, channels):
    """`[..., (tiles + 1) * m * C]` to `[m + 2, ... * tiles, C]`."""
    count = x.shape[-1] // (m * channels) - 1
    x = x.reshape(-1, count + 1, m, channels)
    parts = [x[:, b // m : b // m + count, b % m] for b in range(m + 2)]
    return _mix(filtering(m).image, parts, 0).reshape(m + 2, -1, channels)


def _taps(m: Pair, flip: bool = False):
    """Return what makes the coefficients of a kernel's taps, `[coefficients, 9]`: both axes at once."""
    rows, columns = (filtering(size).kernel[:, :: -1 if flip else 1] for size in m)
    return np.einsum("ia,jb->jiab", rows, columns).reshape(-1, TAPS**2)


# Products of a small matrix and a wide one: sums of slices, coefficient by coefficient, took three times as long, since
# no cache holds a wide kernel.
@noinline
def _kernel(kernel, *, m, flip):
    """`[3, 3, C, O]` to `[coefficients, C, O]`."""
    return (_taps(m, flip) @ kernel.reshape(TAPS**2, -1)).reshape(-1, *kernel.shape[2:])


@noinline
def _output_columns(y, *, m):
    """`[m + 2, tiles, O]` to `[tiles, m, O]`."""
    return _mix(filtering(m).output, list(y), 1)


@noinline
def _output_rows(y, *, m, images):
    """`[m + 2, n * tiles, L]` to `[n, tiles * m, L]`."""
    y = _mix(filtering(m).output, list(y), 1)
    return y.reshape(images, -1, y.shape[2])


def image_bytes(spec: ConvSpec) -> int:
    """Return how much memory the coefficients of one image and its output fill."""
    m, (height, width), (_, _, channels, features) = tiles(spec), spec.output_sizes, spec.kernel_shape
    return 4 * _coefficients(m) * _count(height, m[0]) * _count(width, m[1]) * (channels + features)


def _pieces(spec: ConvSpec, m: Pair) -> int:
    """Return how many images a block has: enough for all to stay in the cache, but some work for each kernel read."""
    channels, features = spec.kernel_shape[2:]
    most = max(_BLOCK_BYTES, 8 * _coefficients(m) * channels * features)
    return blocks.divisor(spec.input_shape[0], most // image_bytes(spec))


def _images(x, i, spec: ConvSpec, m: Pair, images: int):
    """Return block i of images as coefficients `[(m + 2)^2, n * tiles, C]`."""
    counts = [_count(size, each) for size, each in zip(spec.output_sizes, m)]
    sizes = ((counts[0] + 1) * m[0], (counts[1] + 1) * m[1])
    low = (spec.padding[0][0], spec.padding[1][0])
    x = _pad(blocks.part(x, i, size=images), low=low, sizes=sizes)
    v = _image_columns(_image_rows(x, m=m[0]), m=m[1], channels=spec.input_shape[3])
    return v.reshape(_coefficients(m), -1, v.shape[2])


def _convolve(x, kernel, spec: ConvSpec, flip: bool):
    """Convolve; with the kernel flipped and its channels exchanged for the gradient of images."""
    m = tiles(spec)
    (height, width), features = spec.output_sizes, spec.kernel_shape[3]
    counts = (_count(height, m[0]), _count(width, m[1]))
    n = _pieces(spec, m)
    u = _kernel(kernel, m=m, flip=flip)

    def block(i):
        v = _images(x, i, spec, m, n)
        y = lax.dot_general(v, u, (((2,), (2 if flip else 1,)), ((0,), (0,))))
        y = _output_columns(y.reshape(m[1] + 2, -1, features), m=m[1])
        y = y.reshape(m[0] + 2, n * counts[0], -1)
        return _output_rows(y, m=m[0], images=n)

    y = blocks.stacked(block, spec.input_shape[0], n)
    y = y.reshape(-1, counts[0] * m[0], counts[1] * m[1], features)
    return y[:, :height, :width]


def forward(x, kernel, spec: ConvSpec):
    """Return the convolution."""
    return _convolve(x, kernel, spec, flip=False)


def input_grad(g, kernel, spec: ConvSpec):
    """Return the gradient of the images: the convolution of g with the flipped kernel."""
    (top, bottom), (left, right) = spec.padding
    channels, features = spec.kernel_shape[2:]
    edges = ((2 - top, 2 - bottom), (2 - left, 2 - right))
    flipped = ConvSpec(spec.output_shape, (TAPS, TAPS, features, channels), (1, 1), edges, (1, 1))
    return _convolve(g, kernel, flipped, flip=True)


@noinline
def _gradient_rows(g, *, m, sizes):
    """`[n, H, W, O]`, padded to whole tiles, to `[m + 2, n * tiles, L]`."""
    height, width, features = g.shape[1:]
    edges = ((0, 0, 0), (0, sizes[0] - height, 0), (0, (sizes[1] - width) * features, 0))
    g = lax.pad(g.reshape(-1, height, width * features), jnp.zeros((), g.dtype), edges)
    g = g.reshape(-1, m, features * sizes[1])
    return _mix(filtering(m).output.T, [g[:, a] for a in range(m)], 0)


@noinline
def _gradient_columns(g, *, m, features):
    """`[..., tiles * m * O]` to `[m + 2, ... * tiles, O]`."""
    g = g.reshape(-1, m, features)
    return _mix(filtering(m).output.T, [g[:, b] for b in range(m)], 0)


@noinline
def _kernel_gradient(u, *, m):
    """`[coefficients, C, O]` to `[3, 3, C, O]`."""
    return (_taps(m).T @ u.reshape(u.shape[0], -1)).reshape(TAPS, TAPS, *u.shape[1:])


def kernel_grad(x, g, spec: ConvSpec):
    """Return the gradient of the kernel."""
    m = tiles(spec)
    (height, width), features = spec.output_sizes, spec.kernel_shape[3]
    sizes = (_count(height, m[0]) * m[0], _count(width, m[1]) * m[1])
    n = _pieces(spec, m)

    def block(i):
        v = _images(x, i, spec, m, n)
        d = _gradient_rows(blocks.part(g, i, size=n), m=m[0], sizes=sizes)
        d = _gradient_columns(d, m=m[1], features=features).reshape(v.shape[0], -1, features)
        return lax.dot_general(v, d, (((1,), (1,)), ((0,), (0,))))

    return _kernel_gradient(blocks.summed(block, spec.input_shape[0], n), m=m)
