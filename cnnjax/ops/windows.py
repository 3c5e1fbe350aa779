"""Windows that slide over images `[N, H, W, C]`, their pixels combined: by slices, or by the platform's window op.

Every function takes the window and the strides as pairs and the padding as two pairs.
"""

from collections.abc import Callable, Iterator
from functools import reduce

import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops.cpu.blocks import padded

# Longer windows than this are folded by doubling: log2(k) passes instead of k slices.
_LONGEST_FOLD = 8


def first_max(a, b):
    """Return the larger of two arrays."""
    # Not jnp.maximum: a tie goes to the first, so does its gradient, and NaN stays.
    return jnp.where(stays(a, b), a, b)


def stays(a, b):
    """Say where the maximum of a and b is a."""
    return (a >= b) | (a != a)


def max_by_slices(x, window, strides, dilation=(1, 1)):
    """Take the maximum of every window of images that are padded."""
    return _fold_window(x, first_max, window, strides, dilation)


def max_by_window(x, **geometry):
    """Take the maximum of every window with `lax.reduce_window`."""
    return _by_window(x, lax.max, lowest(x.dtype), **geometry)


def sum_by_slices(x, *, window, strides, padding, dilation):
    """Take the sum of every window."""
    return _fold_window(padded(x, padding), jnp.add, window, strides, dilation)


def sum_by_window(x, **geometry):
    """Take the sum of every window with `lax.reduce_window`."""
    return _by_window(x, lax.add, 0, **geometry)


def _by_window(x, combine, start, *, window, strides, padding, dilation):
    init, pads = np.array(start, x.dtype), [(0, 0), *padding, (0, 0)]
    return lax.reduce_window(x, init, combine, (1, *window, 1), (1, *strides, 1), pads, None, (1, *dilation, 1))


def lowest(dtype) -> float | int:
    """Return what is smaller than any number of a dtype."""
    return -jnp.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min


def taps(x, window, strides) -> Iterator:
    """Give, for each place in the window in reading order, the pixels that stand there, `[N, H', W', C]`."""
    lengths = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:3], window, strides)]
    for row in range(window[0]):
        (part,) = _slices(x, [row], lengths[0], strides[0], 1)
        yield from _slices(part, range(window[1]), lengths[1], strides[1], 2)


def _slices(x, starts, length, stride, axis):
    return [lax.slice_in_dim(x, s, s + (length - 1) * stride + 1, stride, axis) for s in starts]


def _fold(x, combine: Callable, kernel: int, stride: int, dilation: int, axis: int):
    """Combine `kernel` neighbours along one axis, in order, at every `stride`-th position."""
    length = (x.shape[axis] - (kernel - 1) * dilation - 1) // stride + 1
    if kernel <= _LONGEST_FOLD:
        return reduce(combine, _slices(x, range(0, kernel * dilation, dilation), length, stride, axis))
    powers, parts, done = x, [], 0
    for bit in range(kernel.bit_length()):
        width = 1 << bit
        if kernel & width:
            parts += _slices(powers, [done * dilation], length, stride, axis)
            done += width
        if done < kernel:
            room = powers.shape[axis] - width * dilation
            powers = combine(*_slices(powers, [0, width * dilation], room, 1, axis))
    return reduce(combine, parts)


def _fold_window(x, combine, window, strides, dilation):
    # Along a row first, then down: of equal values the first in reading order wins.
    x = _fold(x, combine, window[1], strides[1], dilation[1], 2)
    return _fold(x, combine, window[0], strides[0], dilation[0], 1)
