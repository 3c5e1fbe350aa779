"""Slow and plain references in float64, written with loops or with jax.lax."""

import jax
import numpy as np
from jax import lax

from cnnjax import shapes


def pool(x, window, strides, pads, reduce):
    """Call `reduce(window of real pixels, declared count)` at every position."""
    x = np.asarray(x, np.float64)
    (top, bottom), (left, right) = pads
    height = (x.shape[1] + top + bottom - window[0]) // strides[0] + 1
    width = (x.shape[2] + left + right - window[1]) // strides[1] + 1
    y = np.empty((x.shape[0], height, width, x.shape[3]))
    for i in range(height):
        for j in range(width):
            a, b = i * strides[0] - top, j * strides[1] - left
            y[:, i, j] = reduce(x[:, max(a, 0) : a + window[0], max(b, 0) : b + window[1]], (a, b))
    return y


def pads(sizes, window, strides, padding, ceil_mode=False):
    sides = (padding, padding) if isinstance(padding, str | int) else padding
    return [shapes.window_padding(n, k, s, p, ceil_mode=ceil_mode) for n, k, s, p in zip(sizes, window, strides, sides)]


def lax_conv(x, kernel, strides, padding, dilation=(1, 1), groups=1):
    """Call the platform's own convolution."""
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def conv(x, kernel, *window):
    """Return `lax_conv` in float64, as numpy."""
    with jax.enable_x64(True):
        return np.asarray(lax_conv(np.asarray(x, np.float64), np.asarray(kernel, np.float64), *window))


def conv_gradients(x, kernel, g, *window):
    """Return the gradients of `lax_conv` in float64, as numpy."""
    with jax.enable_x64(True):
        x, kernel, g = (np.asarray(a, np.float64) for a in (x, kernel, g))
        gradients = jax.vjp(lambda x, kernel: lax_conv(x, kernel, *window), x, kernel)[1](g)
        return [np.asarray(gradient) for gradient in gradients]


def close(ours, truth, tolerance=1e-5):
    """Check the largest error against the largest true value."""
    ours, truth = np.asarray(ours, np.float64), np.asarray(truth, np.float64)
    assert ours.shape == truth.shape
    scale = max(np.abs(truth).max(initial=0), 1e-30)
    error = np.abs(ours - truth).max(initial=0) / scale
    assert error <= tolerance, f"relative error {error:.2e}"
