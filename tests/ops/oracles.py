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


def _padded(shape, padding):
    """Return zeros of the padded shape and the slices of it that hold the image, and of the image that is held."""
    sizes = [n + low + high for n, (low, high) in zip(shape[1:3], padding)]
    inside = [slice(max(low, 0), size - max(high, 0)) for size, (low, high) in zip(sizes, padding)]
    held = [slice(max(-low, 0), n - max(-high, 0)) for n, (low, high) in zip(shape[1:3], padding)]
    return np.zeros((shape[0], *sizes, shape[3])), (slice(None), *inside), (slice(None), *held)


def _taps(padded, kernel, output_sizes, strides, dilation):
    """Yield each tap with the view of the padded images that it reads."""
    for a in range(kernel.shape[0]):
        for b in range(kernel.shape[1]):
            rows, columns = (
                slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in zip((a, b), dilation, output_sizes, strides)
            )
            yield (a, b), padded[:, rows, columns]


def taps_conv(x, kernel, spec):
    """Return the convolution of a `cpu.ConvSpec` in float64, tap by tap in numpy."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    padded, inside, held = _padded(x.shape, spec.padding)
    padded[inside] = x[held]
    return sum(v @ kernel[t] for t, v in _taps(padded, kernel, spec.output_sizes, spec.strides, spec.dilation))


def taps_gradients(x, kernel, g, spec):
    """Return the gradients of images and kernel in float64, tap by tap in numpy.

    XLA:CPU itself aborts on some of these shapes (jaxlib 0.10.2), so it cannot judge them.
    """
    x, kernel, g = (np.asarray(a, np.float64) for a in (x, kernel, g))
    padded, inside, held = _padded(x.shape, spec.padding)
    padded[inside] = x[held]
    dx, dpadded, dkernel = np.zeros_like(x), np.zeros_like(padded), np.zeros_like(kernel)
    window = (kernel, spec.output_sizes, spec.strides, spec.dilation)
    for (tap, read), (_, written) in zip(_taps(padded, *window), _taps(dpadded, *window)):
        dkernel[tap] = np.einsum("nhwc,nhwo->co", read, g)
        written += g @ kernel[tap].T
    dx[held] = dpadded[inside]
    return dx, dkernel


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
