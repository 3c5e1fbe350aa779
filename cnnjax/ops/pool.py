"""Max, average, adaptive and global pooling of images `[N, H, W, C]`."""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Inexact, Real

from cnnjax import shapes
from cnnjax.ops import windows
from cnnjax.ops.arguments import PaddingLike, Size, images, pair, per_axis
from cnnjax.ops.maxima import max_of_windows


def _windows(op, x, window, strides, padding, ceil_mode, dilation):
    """Return x, the window's geometry and how many pixels of the image each window holds on each axis, all checked."""
    x = images(op, x)
    window, dilation = pair(op, "window", window), pair(op, "dilation", dilation)
    strides = window if strides is None else pair(op, "strides", strides)
    axes = list(zip(x.shape[1:3], window, strides, per_axis(op, padding), dilation))
    try:
        pads = tuple(shapes.window_padding(n, k, s, p, d, ceil_mode) for n, k, s, p, d in axes)
    except ValueError as error:
        raise ValueError(str(error).replace("shapes:", f"{op}:", 1)) from None
    held = [_counts(n, k, s, d, sides, (0, 0)) for (n, k, s, _, d), sides in zip(axes, pads)]
    if any((d - 1) * (k - 1) + k <= side for (_, k, _, _, d), sides in zip(axes, pads) for side in sides):
        raise ValueError(
            f"{op}: expected padding smaller than the window {window}, got {pads}. "
            "Pad less: a window of padding alone has no value."
        )
    if not all(counts.all() for counts in held):
        raise ValueError(
            f"{op}: expected windows that hold a pixel, got dilation {dilation} and padding {pads} on images of "
            f"{x.shape[1]}x{x.shape[2]}. Use less of both: a window of padding alone has no value."
        )
    return x, {"window": window, "strides": strides, "padding": pads, "dilation": dilation}, held


def max_pool(
    x: Real[ArrayLike, "n h w c"],
    window: Size,
    *,
    strides: Size | None = None,
    padding: PaddingLike = "VALID",
    ceil_mode: bool = False,
    dilation: Size = 1,
) -> Real[Array, "n h2 w2 c"]:
    """Take the maximum of every window.

    `y[n, i, j, c] = max x[n, i * s + a * d, j * s + b * d, c]`; padding counts as minus infinity. Of equal values the
    first in reading order gets the gradient; NaN propagates.

    Args:
      x: Images.
      window: Height and width of the window, or one integer for both.
      strides: Pixels between windows; None for the window itself.
      padding: `"VALID"`, `"SAME"`, an integer, or `((top, bottom), (left, right))`.
      ceil_mode: Whether a last window may hang over the end (PyTorch's rule).
      dilation: Pixels between the window's.
    Raises:
      TypeError: If x is not of real numbers.
      ValueError: If x is not of rank 4, no window fits, or one holds padding alone.
    Example:
      >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 2)[0, :, :, 0].tolist()
      [[5.0, 7.0], [13.0, 15.0]]
    """
    x, geometry, _ = _windows("max_pool", x, window, strides, padding, ceil_mode, dilation)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f"max_pool: expected x of a real dtype, got {x.dtype}. Complex numbers have no order.")
    # XLA:CPU expands the gradient of reduce_window into a slow loop, and its fused 2/2 maximum drops NaN.
    return lax.platform_dependent(
        x, cpu=partial(max_of_windows, **geometry), default=partial(windows.max_by_window, **geometry)
    )


def _counts(size, kernel, stride, dilation, pads, declared):
    """Return how many pixels of `[-low, size + high)`, the declared padding, each window holds."""
    starts = np.arange((size + sum(pads) - (kernel - 1) * dilation - 1) // stride + 1) * stride - pads[0]
    places = np.add.outer(starts, np.arange(kernel) * dilation)
    return ((places >= -declared[0]) & (places < size + declared[1])).sum(1)


def avg_pool(
    x: Inexact[ArrayLike, "n h w c"],
    window: Size,
    *,
    strides: Size | None = None,
    padding: PaddingLike = "VALID",
    ceil_mode: bool = False,
    count_include_pad: bool = False,
    dilation: Size = 1,
) -> Inexact[Array, "n h2 w2 c"]:
    """Take the mean of every window.

    Sums are taken in float32 at least. Pixels that only ceil mode adds are never counted.

    Args:
      x: Images.
      window: This and the rest as for `max_pool`.
      count_include_pad: Whether padding counts as pixels of value 0 (PyTorch's and Flax's default) or not at all
        (Keras's).
    Raises:
      TypeError: If x is not floating.
      ValueError: If x is not of rank 4, no window fits, or one holds padding alone.
    Example:
      >>> avg_pool(jnp.ones((1, 2, 2, 1)), 3, strides=2, padding=1)[0, :, :, 0].tolist()
      [[1.0]]
    """
    x, geometry, counted = _windows("avg_pool", x, window, strides, padding, ceil_mode, dilation)
    _check_floating("avg_pool", x)
    wide = _wide(x.dtype)
    sums = lax.platform_dependent(
        x.astype(wide),
        cpu=partial(windows.sum_by_slices, **geometry),
        default=partial(windows.sum_by_window, **geometry),
    )
    if count_include_pad:
        axes = zip(x.shape[1:3], *(geometry[name] for name in ("window", "strides", "dilation", "padding")))
        sides = per_axis("avg_pool", padding)
        counted = [
            _counts(n, k, s, d, pads, shapes.resolve_padding(n, k, s, side, d))
            for (n, k, s, d, pads), side in zip(axes, sides)
        ]
    rows, columns = counted
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


def global_avg_pool(x: Inexact[ArrayLike, "n h w c"]) -> Inexact[Array, "n c"]:
    """Take the mean over height and width.

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


def adaptive_avg_pool(x: Inexact[ArrayLike, "n h w c"], output_size: Size) -> Inexact[Array, "n h2 w2 c"]:
    """Average into a given number of windows, whatever the size of the image.

    Window i covers pixels `floor(i * H / H')` up to `ceil((i + 1) * H / H')`, as PyTorch's does.

    Args:
      x: Images.
      output_size: Height and width of the output, or one integer for both.
    Raises:
      TypeError: If x is not floating.
      ValueError: If x is not of rank 4 or a size is not positive.
    Example:
      >>> adaptive_avg_pool(jnp.ones((2, 13, 9, 3)), 6).shape
      (2, 6, 6, 3)
    """
    x = images("adaptive_avg_pool", x)
    _check_floating("adaptive_avg_pool", x)
    wide = x.astype(_wide(x.dtype))
    return _adaptive("adaptive_avg_pool", wide, output_size, avg_pool, _mean).astype(x.dtype)


def adaptive_max_pool(x: Real[ArrayLike, "n h w c"], output_size: Size) -> Real[Array, "n h2 w2 c"]:
    """Take the maximum of a given number of windows, whatever the size of the image.

    The windows are those of `adaptive_avg_pool`; ties and NaN are as in `max_pool`.

    Args:
      x: Images.
      output_size: Height and width of the output, or one integer for both.
    Raises:
      TypeError: If x is not of real numbers.
      ValueError: If x is not of rank 4 or a size is not positive.
    Example:
      >>> adaptive_max_pool(jnp.arange(5.0).reshape(1, 1, 5, 1), (1, 3)).tolist()
      [[[[1.0], [3.0], [4.0]]]]
    """
    x = images("adaptive_max_pool", x)

    def maximum(x, axes):
        return max_pool(x, [x.shape[axis] if axis in axes else 1 for axis in (1, 2)])

    return _adaptive("adaptive_max_pool", x, output_size, max_pool, maximum)


def _adaptive(op: str, x, output_size: Size, pool: Callable, combine: Callable):
    """Pool evenly where the sizes divide, and otherwise `combine` each window, along rows first, then down."""
    _check_pixels(op, x)
    rows, columns = pair(op, "output_size", output_size)
    if x.shape[1] % rows == 0 and x.shape[2] % columns == 0:
        return pool(x, (x.shape[1] // rows, x.shape[2] // columns))
    for length, axis in ((columns, 2), (rows, 1)):
        edges = [(i * x.shape[axis] // length, -(-(i + 1) * x.shape[axis] // length)) for i in range(length)]
        parts = [combine(lax.slice_in_dim(x, low, high, axis=axis), (axis,)) for low, high in edges]
        x = jnp.concatenate(parts, axis=axis)
    return x
