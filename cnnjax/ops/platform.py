"""The platform's own convolution, put so that XLA takes it."""

from collections.abc import Sequence
from typing import Any

from jax import lax


def platform_conv(
    lhs,
    rhs,
    window_strides: Sequence[int],
    padding: Any,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    **options: Any,
):
    """Do what `jax.lax.conv_general_dilated` does, without the shapes that XLA can't compile.

    On an axis without padding, with as many taps as the images' dilation and a stride of one less, XLA's simplifier
    keeps the window as it is while it exchanges the operands on an axis whose kernel is larger than the image, and then
    aborts the process: "Window dimensions do not match RHS shape" (jaxlib 0.10.2 and 0.12). With one more pixel of
    padding, whose output is cut off, there is no such axis.
    """
    arguments = {"rhs_dilation": rhs_dilation, "dimension_numbers": dimension_numbers, **options}
    if lhs_dilation is None or all(dilation == 1 for dilation in lhs_dilation):
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, lhs_dilation, **arguments)
    lhs_spec, rhs_spec, out_spec = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    taps = [rhs.shape[axis] for axis in rhs_spec[2:]]
    sizes = [(lhs.shape[axis] - 1) * dilation + 1 for axis, dilation in zip(lhs_spec[2:], lhs_dilation)]
    between = rhs_dilation or [1] * len(taps)
    if isinstance(padding, str):
        reach = [(k - 1) * dilation + 1 for k, dilation in zip(taps, between)]
        padding = lax.padtype_to_pads(sizes, reach, window_strides, padding)
    padding, limits = list(padding), {}
    for place, (size, k, stride) in enumerate(zip(sizes, taps, window_strides)):
        if 1 < k == lhs_dilation[place] == stride + 1 and between[place] == 1 and tuple(padding[place]) == (0, 0):
            padding[place], limits[out_spec[place + 2]] = (0, 1), (size - k) // stride + 1
    y = lax.conv_general_dilated(lhs, rhs, window_strides, padding, lhs_dilation, **arguments)
    return lax.slice(y, [0] * y.ndim, [limits.get(axis, size) for axis, size in enumerate(y.shape)]) if limits else y
