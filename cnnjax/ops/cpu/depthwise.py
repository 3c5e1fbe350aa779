"""Depthwise convolutions as sums of shifted images, each times one tap of every channel.

XLA for the CPU computes these number by number. Here each tap is one multiply-add over whole vectors of channels, and
all of them are one pass over the images. The gradient of the images is the same sum, its kernel turned. That of the
kernel multiplies the pixels of a row under each column of the kernel with the row's gradients and adds up the row, all
in the innermost cache; what is left of all rows is summed in the end. A zero of the padding meets every tap.
"""

import functools
import operator
from typing import Any

import jax.numpy as jnp
from jax import lax

from cnnjax.ops.cpu import blocks, phases, sums
from cnnjax.ops.cpu.blocks import noinline
from cnnjax.ops.cpu.spec import ConvSpec, Pair

MOST_TAPS = 128  # beyond, one pass has too much code
_COLUMNS = 16  # of gradients that one pass adds up


def forward(x, kernel, spec: ConvSpec):
    """Return the convolution."""
    x = noinline(blocks.padded)(_repeated(x, spec), padding=spec.padding)
    return _sum_of_taps(x, kernel, sizes=spec.output_sizes, strides=spec.strides, dilation=spec.dilation)


def input_grad(g, kernel, spec: ConvSpec):
    """Return the gradient of the images: g convolved with the turned kernel, phase by phase of the strides."""

    def convolve(g, kernel, padding, dilation):
        g = noinline(blocks.padded)(g, padding=padding)
        reach = ((k - 1) * d for k, d in zip(kernel.shape[:2], dilation))
        sizes = tuple(n - over for n, over in zip(g.shape[1:3], reach))
        y = _sum_of_taps(g, kernel, sizes=sizes, strides=(1, 1), dilation=dilation)
        return y if spec.groups == y.shape[3] else y.reshape(*y.shape[:3], spec.groups, -1).sum(4)

    return phases.input_grad(g, kernel[::-1, ::-1], spec, convolve)


def kernel_grad(x, g, spec: ConvSpec):
    """Return the gradient of the kernel."""
    (kh, kw, _, features), columns = spec.kernel_shape, spec.output_sizes[1]
    x, rows = noinline(blocks.padded)(_repeated(x, spec), padding=spec.padding), []
    window = {"taps": kw, "strides": spec.strides, "dilation": spec.dilation[1]}
    for row in range(0, kh * spec.dilation[0], spec.dilation[0]):
        added: Any = None
        for first in range(0, columns, _COLUMNS):
            last = min(first + _COLUMNS, columns)
            added = _row_products(added, x, g, row, columns=(first, last), **window)
        rows.append(sums.over_rows(added.reshape(-1, kw * features)))
    return jnp.stack(rows).reshape(spec.kernel_shape)


def _repeated(x, spec: ConvSpec):
    """Repeat every channel for each of its features."""
    times = spec.kernel_shape[3] // spec.groups
    return x if times == 1 else noinline(jnp.repeat)(x, repeats=times, axis=3)


@noinline
def _sum_of_taps(x, kernel, *, sizes: Pair, strides: Pair, dilation: Pair):
    """Return the sum of all windows of padded images times their taps."""
    terms = []
    for a in range(kernel.shape[0]):
        for b in range(kernel.shape[1]):
            start = (a * dilation[0], b * dilation[1])
            stops = [first + (size - 1) * stride + 1 for first, size, stride in zip(start, sizes, strides)]
            window = lax.slice(x, (0, *start, 0), (x.shape[0], *stops, x.shape[3]), (1, *strides, 1))
            terms.append(window * kernel[None, None, None, a, b, 0])
    return functools.reduce(operator.add, terms)


@noinline
def _row_products(before, x, g, row, *, columns: Pair, taps: int, strides: Pair, dilation: int):
    """Return, for each row of g and each column of the kernel, the sum over some columns of g and what was before."""
    batch, height, _, channels = g.shape
    length = (height - 1) * strides[0] + 1
    x = lax.dynamic_slice(x, (0, row, 0, 0), (batch, length, *x.shape[2:]))
    terms = [] if before is None else [before]
    for column in range(*columns):
        start = column * strides[1]
        stop = start + (taps - 1) * dilation + 1
        window = lax.slice(x, (0, 0, start, 0), (batch, length, stop, channels), (1, strides[0], dilation, 1))
        terms.append(window * g[:, :, column : column + 1])
    return functools.reduce(operator.add, terms)
