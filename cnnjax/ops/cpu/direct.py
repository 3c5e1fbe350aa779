"""XLA's own convolution in all three roles, put so that its routine for every core takes it.

XLA:CPU gives a plain convolution to YNNPACK, which keeps to one core where outputs have fewer than 128 channels, and
anything whose images are dilated to Eigen, which takes all cores. Images, kernel and steps twice as far apart on the
first axis mean the same convolution, and the zeros in between are never read.

XLA also turns a kernel round, or transposes images, within its convolution, and puts that right for a fast routine only
outside of loops: inside of one, a micro-batch's or a scan's, such a convolution is 4 to 8 times slower. Hence kernels
are turned and images transposed here, before it.
"""

import math
from collections.abc import Sequence

from cnnjax.ops.cpu import blocks
from cnnjax.ops.cpu.blocks import noinline
from cnnjax.ops.cpu.spec import ConvSpec, Pair
from cnnjax.ops.xla_faults import platform_conv

_PARALLEL_MACS = 20_000_000  # measured: below it one core has done the work before a second has been woken
_LARGE = 1 << 19  # numbers of a few images that are worth every core: measured


def _xla(x, kernel, strides: Pair, padding: Sequence[Pair], image_dilation: Pair, kernel_dilation: Pair):
    return platform_conv(x, kernel, strides, padding, image_dilation, kernel_dilation, ("NHWC", "HWIO", "NHWC"))


def _convolve(x, kernel, strides: Pair, padding: Sequence[Pair], dilation: Pair, every_core: bool):
    """Convolve `[N, H, W, C]` and `[KH, KW, C, O]`."""
    fits = all((k - 1) * d < n for n, k, d in zip(x.shape[1:3], kernel.shape[:2], dilation))
    if not fits:  # XLA would take a loop 40 times slower, and would put padding back that it can see
        x, padding = noinline(blocks.padded)(x, padding=tuple(padding)), ((0, 0), (0, 0))
    if not every_core:
        return _xla(x, kernel, strides, padding, (1, 1), dilation)
    (low, high), columns = padding
    padding = ((2 * low, 2 * high), columns)
    return _xla(x, kernel, (2 * strides[0], strides[1]), padding, (2, 1), (2 * dilation[0], dilation[1]))


def _pays(channels: int, features: int, macs: int) -> bool:
    # Measured: Eigen reads few channels of dilated images slowly, writes few features no faster than 16, and has these
    # without any dilation.
    return min(channels, features) >= 16 < max(channels, features) and macs >= _PARALLEL_MACS


def _pays_for_kernels(spec: ConvSpec) -> bool:
    # Measured: here images are read as channels, and few of them slowly, unless they leave the caches.
    return spec.input_shape[0] >= 8 or math.prod(spec.input_shape) >= _LARGE


def forward(x, kernel, spec: ConvSpec):
    """Return the convolution."""
    every_core = _pays(*spec.kernel_shape[2:], spec.macs)
    return _convolve(x, kernel, spec.strides, spec.padding, spec.dilation, every_core)


@noinline
def _turned(kernel):
    """Turn a kernel `[KH, KW, C, O]` by half and exchange its channels: `[KH, KW, O, C]`."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def input_grad(g, kernel, spec: ConvSpec):
    """Return the gradient of the images: g, its pixels apart by the strides, convolved with the turned kernel."""
    channels, features = spec.kernel_shape[2:]
    if spec.strides == (1, 1):
        every_core = _pays(features, channels, spec.macs)
        return _convolve(g, _turned(kernel), (1, 1), spec.input_grad_padding, spec.dilation, every_core)
    return _xla(g, _turned(kernel), (1, 1), spec.input_grad_padding, spec.strides, spec.dilation)


@noinline
def _by_channel(x):
    """Transpose images `[N, H, W, C]` to `[C, H, W, N]`."""
    return x.transpose(3, 1, 2, 0)


@noinline
def _by_pixel(g):
    """Transpose gradients `[N, H', W', O]` to `[H', W', N, O]`."""
    return g.transpose(1, 2, 0, 3)


def kernel_grad(x, g, spec: ConvSpec):
    """Return the gradient of the kernel: a channel's images convolved with the gradients, the batch summed over."""
    edges = [
        (low, (k - 1) * dilation + (rows - 1) * stride + 1 - n - low)
        for n, k, rows, stride, dilation, (low, _) in zip(
            *(spec.input_shape[1:3], spec.kernel_shape[:2], spec.output_sizes),
            *(spec.strides, spec.dilation, spec.padding),
        )
    ]
    every_core = _pays_for_kernels(spec)
    y = _convolve(_by_channel(x), _by_pixel(g), spec.dilation, edges, spec.strides, every_core)
    return y.transpose(1, 2, 0, 3)
