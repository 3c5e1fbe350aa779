"""Gradients of images under a strided convolution as several convolutions of stride 1.

With its pixels put apart by the strides, g is mostly zeros. But pixels of the images that lie a stride apart meet the
same taps: each such phase is a convolution of g as it is with those taps alone, and the phases interleave.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from cnnjax.ops.cpu.blocks import noinline
from cnnjax.ops.cpu.spec import ConvSpec, Pair


class _Phase(NamedTuple):
    """One axis of one phase: its taps of the turned kernel, padding of g, distance of the taps, and outputs."""

    taps: slice
    padding: Pair
    dilation: int
    count: int


def input_grad(g, turned, spec: ConvSpec, convolve: Callable):
    """Return the gradient of the images.

    Args:
      g: Gradients of the outputs.
      turned: The kernel turned by half, its channels and features exchanged.
      spec: The convolution.
      convolve: A function of g, a kernel, the padding and the kernel's dilation, for stride 1.
    """
    phases = [[_phase(spec, axis, number) for number in range(spec.strides[axis])] for axis in (0, 1)]
    parts = []
    for row, column in np.ndindex(spec.strides):
        axes = phases[0][row], phases[1][column]
        kernel = noinline(_part)(turned, rows=_numbers(axes[0].taps), columns=_numbers(axes[1].taps))
        if 0 in kernel.shape:  # strides longer than the kernel: no window reads these pixels
            parts.append(jnp.zeros((g.shape[0], axes[0].count, axes[1].count, spec.input_shape[3]), g.dtype))
        else:
            padding, dilation = (tuple(getattr(axis, name) for axis in axes) for name in ("padding", "dilation"))
            parts.append(convolve(g, kernel, padding, dilation))
    lows = tuple(low % stride for (low, _), stride in zip(spec.padding, spec.strides))
    return noinline(_interleaved)(parts, strides=spec.strides, lows=lows, sizes=spec.input_shape[1:3])


def _phase(spec: ConvSpec, axis: int, number: int) -> _Phase:
    """Return the phase of the pixels whose place, counted from the padding's start, leaves `number` by the stride."""
    kernel, stride, dilation = spec.kernel_shape[axis], spec.strides[axis], spec.dilation[axis]
    size, (low, _), outputs = spec.input_shape[axis + 1], spec.padding[axis], spec.output_sizes[axis]
    first, last = low // stride, -(-(size + low) // stride) - 1
    taps = [tap for tap in range(kernel) if (tap * dilation - number) % stride == 0]
    if not taps:
        return _Phase(slice(0, 0, 1), (0, 0), 1, last - first + 1)
    # Output i of a phase reads g at i + offset, from the offset of the last tap to that of the first.
    near, far = ((number - tap * dilation) // stride for tap in (taps[-1], taps[0]))
    step = stride // math.gcd(stride, dilation)
    chosen = slice(kernel - 1 - taps[-1], kernel - taps[0], step)
    padding = -(first + near), last + far - (outputs - 1)
    return _Phase(chosen, padding, dilation // math.gcd(stride, dilation), last - first + 1)


def _numbers(taps: slice) -> tuple[int, int, int]:
    return taps.start, taps.stop, taps.step


def _part(kernel, *, rows, columns):
    return kernel[slice(*rows), slice(*columns)]


def _interleaved(parts, *, strides: Pair, lows: Pair, sizes: Pair):
    rows = [jnp.stack(parts[first : first + strides[1]], 3) for first in range(0, len(parts), strides[1])]
    batch, height, width, _, channels = rows[0].shape
    y = jnp.stack(rows, 2).reshape(batch, height * strides[0], width * strides[1], channels)
    return y[:, lows[0] : lows[0] + sizes[0], lows[1] : lows[1] + sizes[1]]
