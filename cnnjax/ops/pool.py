"""Max, average, adaptive and global pooling of images `[N, H, W, C]`."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import shapes
from cnnjax.ops import windows
from cnnjax.ops.arguments import PaddingLike, Size, images, pair, per_axis
from cnnjax.ops.maxima import max_of_windows


def _windows(op, x, window, strides, padding, ceil_mode):
    """Return x and the window, strides and padding pairs, all checked."""
    x = images(op, x)
    window = pair(op, "window", window)
    strides = window if strides is None else pair(op, "strides", strides)
    sides = per_axis(op, padding)
    sizes = x.shape[1:3]
    try:
        pads = tuple(
            shapes.window_padding(n, k, s, p, ceil_mode=ceil_mode) for n, k, s, p in zip(sizes, window, strides, sides)
        )
    except ValueError as error:
        raise ValueError(str(error).replace("shapes:", f"{op}:", 1)) from None
    if any(side >= k for k, (low, high) in zip(window, pads) for side in (low, high)):
        raise ValueError(
            f"{op}: expected padding smaller than the window {window}, got {pads}. "
            "Pad less: a window of padding alone has no value."
        )
    return x, window, strides, pads


def max_pool(
    x, window: Size, *, strides: Size | None = None, padding: PaddingLike = "VALID", ceil_mode: bool = False
) -> jax.Array:
    """Take the maximum of every window.

    `y[n, i, j, c] = max x[n, i * s + a, j * s + b, c]`; padding counts as minus infinity. Of equal values the first
    in reading order gets the gradient; NaN propagates.

    Args:
      x: Images, `[N, H, W, C]`.
      window: Height and width of the window, or one integer for both.
      strides: Pixels between windows; None for the window itself.
      padding: `"VALID"`, `"SAME"`, an integer, or `((top, bottom), (left, right))`.
      ceil_mode: Whether a last window may hang over the end (PyTorch's rule).
    Returns:
      `[N, H', W', C]`, the dtype of x.
    Raises:
      TypeError: If x is not of real numbers.
      ValueError: If x is not of rank 4, no window fits, or the padding is as large as the window.
    Example:
      >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 2)[0, :, :, 0].tolist()
      [[5.0, 7.0], [13.0, 15.0]]
    """
    x, window, strides, pads = _windows("max_pool", x, window, strides, padding, ceil_mode)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f"max_pool: expected x of a real dtype, got {x.dtype}. Complex numbers have no order.")
    arguments = {"window": window, "strides": strides, "padding": pads}
    # XLA:CPU expands the gradient of reduce_window into a slow loop, and its fused 2/2 maximum drops NaN.
    return lax.platform_dependent(
        x, cpu=partial(max_of_windows, **arguments), default=partial(windows.max_by_window, **arguments)
    )


def _counts(size, kernel, stride, pads, declared):
    """Return how many pixels of `[-low, size + high)`, the declared padding, each window holds."""
    starts = np.arange((size + sum(pads) - kernel) // stride + 1) * stride - pads[0]
    low, high = declared
    return np.minimum(starts + kernel, size + high) - np.maximum(starts, -low)


def avg_pool(
    x,
    window: Size,
    *,
    strides: Size | None = None,
    padding: PaddingLike = "VALID",
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> jax.Array:
    """Take the mean of every window.

    Sums are taken in float32 at least. Pixels that only ceil mode adds are never counted.

    Args:
      x: Images, float, `[N, H, W, C]`.
      window: Height and width of the window, or one integer for both.
      strides: Pixels between windows; None for the window itself.
      padding: `"VALID"`, `"SAME"`, an integer, or `((top, bottom), (left, right))`.
      ceil_mode: Whether a last window may hang over the end (PyTorch's rule).
      count_include_pad: Whether padding counts as pixels of value 0 (PyTorch's and Flax's default) or not at all
        (Keras's).
    Returns:
      `[N, H', W', C]`, the dtype of x.
    Raises:
      TypeError: If x is not floating.
      ValueError: If x is not of rank 4, no window fits, or the padding is as large as the window.
    Example:
      >>> avg_pool(jnp.ones((1, 2, 2, 1)), 3, strides=2, padding=1)[0, :, :, 0].tolist()
      [[1.0]]
    """
    x, window, strides, pads = _windows("avg_pool", x, window, strides, padding, ceil_mode)
    sides = per_axis("avg_pool", padding)
    declared = [shapes.resolve_padding(n, k, s, p) for n, k, s, p in zip(x.shape[1:3], window, strides, sides)]
    _check_floating("avg_pool", x)
    wide = _wide(x.dtype)
    arguments = {"window": window, "strides": strides, "padding": pads}
    sums = lax.platform_dependent(
        x.astype(wide),
        cpu=partial(windows.sum_by_slices, **arguments),
        default=partial(windows.sum_by_window, **arguments),
    )
    counted = declared if count_include_pad else ((0, 0), (0, 0))
    rows, columns = map(_counts, x.shape[1:3], window, strides, pads, counted)
    counts = np.multiply.outer(rows, columns)[None, :, :, None]
    if (counts == counts.flat[0]).all():
        return (sums / int(counts.flat[0])).astype(x.dtype)
    return (sums / jnp.asarray(counts, wide)).astype(x.dtype)


def _wide(dtype):
    """Return the dtype of sums; not `promote_types`, which strict promotion forbids."""
    return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.float32


def _check_floating(op, x):
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(f"{op}: expected x of a floating dtype, got {x.dtype}. Cast it: x.astype('float32').")


def _check_pixels(op, x):
    if 0 in x.shape[1:3]:
        raise ValueError(f"{op}: expected images of at least one pixel, got shape {x.shape}. Leave such a batch out.")


def global_avg_pool(x) -> jax.Array:
    """Take the mean over height and width.

    Args:
      x: Images, float, `[N, H, W, C]`.
    Returns:
      `[N, C]`, the dtype of x.
    Raises:
      TypeError: If x is not floating.
      ValueError: If x is not of rank 4.
    Example:
      >>> global_avg_pool(jnp.ones((2, 7, 7, 3))).shape
      (2, 3)
    """
    x = images("global_avg_pool", x)
    _check_floating("global_avg_pool", x)
    _check_pixels("global_avg_pool", x)
    return _mean(x, (1, 2))[:, 0, 0]


def _mean(x, axes):
    # XLA for the CPU fuses a ReLU into the mean that follows and then drops its NaN, but not if the ReLU has a second
    # reader, such as this one of the first pixel, which adds 0 (and NaN where the mean is NaN too).
    first = lax.slice_in_dim(x, 0, 1, axis=axes[0])
    first = lax.slice_in_dim(first, 0, 1, axis=axes[-1])
    nothing = jnp.where(first == first, jnp.zeros((), x.dtype), jnp.full((), jnp.nan, x.dtype))
    return jnp.mean(x, axis=axes, keepdims=True) + nothing


def adaptive_avg_pool(x, output_size: Size) -> jax.Array:
    """Average into a given number of windows, whatever the size of the image.

    Window i covers pixels `floor(i * H / H')` up to `ceil((i + 1) * H / H')`, as PyTorch's does.

    Args:
      x: Images, float, `[N, H, W, C]`.
      output_size: Height and width of the output, or one integer for both.
    Returns:
      `[N, H', W', C]`, the dtype of x.
    Raises:
      TypeError: If x is not floating.
      ValueError: If x is not of rank 4 or a size is not positive.
    Example:
      >>> adaptive_avg_pool(jnp.ones((2, 13, 9, 3)), 6).shape
      (2, 6, 6, 3)
    """
    x = images("adaptive_avg_pool", x)
    _check_floating("adaptive_avg_pool", x)
    _check_pixels("adaptive_avg_pool", x)
    rows, columns = pair("adaptive_avg_pool", "output_size", output_size)
    if x.shape[1] % rows == 0 and x.shape[2] % columns == 0:
        return avg_pool(x, (x.shape[1] // rows, x.shape[2] // columns))
    wide = x.astype(_wide(x.dtype))
    return _adapt(_adapt(wide, columns, 2), rows, 1).astype(x.dtype)


def _adapt(x, length, axis):
    size = x.shape[axis]
    edges = [(i * size // length, -(-(i + 1) * size // length)) for i in range(length)]
    means = [_mean(lax.slice_in_dim(x, a, b, axis=axis), (axis,)) for a, b in edges]
    return jnp.concatenate(means, axis=axis)
