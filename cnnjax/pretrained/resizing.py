"""Antialiased bilinear and bicubic resizing, equal to PyTorch's of tensors to the last level of 255.

Of bicubic ones, one value in some 100,000 lies so near to a half that it is rounded otherwise.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def resize_and_crop(
    images: jax.Array, resized: tuple[int, int], crop: tuple[int, int], antialias: bool = True, bicubic: bool = False
) -> jax.Array:
    """Return the middle of resized images, in whole numbers 0 to 255 as float32; what is cut off is not made first.

    Args:
      images: `[N, H, W, C]`, pixels 0 to 255.
      resized: `(H, W)` that they are resized to.
      crop: `(H, W)` of the middle.
      antialias: Whether a pixel of a smaller image averages all that it stands for.
      bicubic: Whether four pixels a side are mixed by Keys's cubic of -1/2, instead of two by a line.
    """
    (height, width), (high, wide), (tall, broad) = images.shape[1:3], resized, crop
    # Python's rounding to even, as in torchvision.
    top, left = round((high - tall) / 2), round((wide - broad) / 2)
    if (high, wide) == (height, width):
        return images[:, top : top + tall, left : left + broad].astype(jnp.float32)
    rows = _taps(height, high, (top, top + tall), antialias, bicubic)
    columns = _taps(width, wide, (left, left + broad), antialias, bicubic)
    mixed = _mix(_mix(images.astype(jnp.float32), 2, *columns), 1, *rows)
    return jnp.round(jnp.clip(mixed, 0, 255) if bicubic else mixed)


def _mix(x: jax.Array, axis: int, places: np.ndarray, weights: np.ndarray) -> jax.Array:
    """Return sums of an axis's pixels, one tap after the other, as PyTorch has them: fused, rounded once a tap.

    A compiler may fuse a sum of two products either way. There is none here: the first is added to a zero that it can't
    see to be one.
    """
    total, shape = x[:1, :1, :1, :1] * 0, [1, 1, 1, 1]
    shape[axis] = -1
    for place, weight in zip(places, weights):
        total = jnp.take(x, place, axis=axis) * weight.reshape(shape) + total
    return total


def _taps(
    size: int, resized: int, kept: tuple[int, int], antialias: bool, bicubic: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the old pixels that the kept new ones are made of, and their shares, each `[taps, new]`.

    Computed in float32 in the order in which PyTorch does: positions are off by about 1e-5 of a pixel then, and where a
    sum is almost a half, that decides how it is rounded.
    """
    one, half = np.float32(1), np.float32(0.5)
    scale = np.float32(size) / np.float32(resized)
    unit = scale if antialias and scale > 1 else one
    reach = np.float32(2) * unit if bicubic else unit
    centers = scale * (np.arange(*kept).clip(0, resized - 1).astype(np.float32) + half)
    first = np.maximum((centers - reach + half).astype(np.int64), 0)
    last = np.minimum((centers + reach + half).astype(np.int64), size)
    places = first + np.arange((last - first).max())[:, None]
    distances = np.abs((places.astype(np.float32) - centers + half) * (one / unit))
    shares = _cubic(distances) if bicubic else np.maximum(one - distances, np.float32(0))
    weights = np.where(places < last, shares, np.float32(0))
    total = weights[0]
    for weight in weights[1:]:
        total = total + weight
    return places.clip(max=size - 1), weights / total


def _cubic(x: np.ndarray) -> np.ndarray:
    """Return Keys's cubic of -1/2 at distances, products and sums fused as in PyTorch."""
    a, single = -0.5, np.float32

    def fused(x: np.ndarray, y: np.ndarray | np.float32, z: float) -> np.ndarray:
        return (x.astype(np.float64) * y + z).astype(single)

    near = fused(fused(x, single(a + 2), -(a + 3)) * x, x, 1.0)
    far = fused(fused(fused(x, single(a), -5 * a), x, 8 * a), x, -4 * a)
    return np.where(x < 1, near, np.where(x < 2, far, single(0)))
