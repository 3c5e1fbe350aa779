"""Augmentations that resize a part of each image: random resized crops and scale jitter.

Interpolation is bilinear and antialiased: where the image shrinks, the triangle grows with the step, so that every
pixel counts. That is what torchvision does by default and Pillow always.
"""

import math

import jax
import jax.numpy as jnp

from cnnjax.batch import Batch
from cnnjax.data.augment.keys import add_in_order, change_images, rounded, uniform
from cnnjax.errors import UsageError

_ATTEMPTS = 10


def random_resized_crop(
    batch: Batch,
    key: jax.Array,
    *,
    size: int | tuple[int, int] | None = None,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Batch:
    """Cut a random part out of each image and resize it: torchvision's `RandomResizedCrop`.

    Args:
      batch: Images `[N, H, W, C]`, any range.
      key: PRNG key.
      size: `(H, W)` of the result, or one number for both; None: as the images are.
      scale: Least and greatest part of the image's area.
      ratio: Least and greatest width of the part, divided by its height.
    Returns:
      The batch with images `[N, *size, C]`, of the same type; computed in float32.
    References:
      Szegedy et al., 2014, https://arxiv.org/abs/1409.4842, section 6.
    """
    _, height, width, _ = batch.image.shape
    goal = _as_size(size, (height, width))

    def crop(image: jax.Array, key: jax.Array) -> jax.Array:
        return resize_box(image, random_box(key, height, width, scale, ratio), goal)

    return change_images(batch, key, crop)


def scale_jitter(
    batch: Batch, key: jax.Array, *, low: int, high: int, size: int | tuple[int, int] | None = None
) -> Batch:
    """Resize each image so that its shorter side has a random number of pixels, and cut a window out.

    Args:
      batch: Images `[N, H, W, C]`, any range.
      key: PRNG key.
      low: Least number of pixels of the shorter side.
      high: Greatest one; every whole number between is as likely.
      size: `(H, W)` of the window, or one number for both; None: as the images are. Every place is as likely.
    Returns:
      The batch with images `[N, *size, C]`, of the same type; computed in float32.
    Raises:
      UsageError: If the window does not fit into the smallest resized image.
    References:
      Simonyan and Zisserman, 2014, https://arxiv.org/abs/1409.1556, section 3.1: 256 to 512, and 224 cut out.
    """
    _, height, width, _ = batch.image.shape
    goal, short = _as_size(size, (height, width)), min(height, width)
    if not low <= high:
        raise UsageError(f"scale-jitter: expected the least scale first, such as 256-512, got {low}-{high}.")
    if low * height // short < goal[0] or low * width // short < goal[1]:
        raise UsageError(
            f"scale-jitter: expected a least scale at which {height}x{width} images hold a window of "
            f"{goal[0]}x{goal[1]}, got {low}; raise it or cut a smaller window out."
        )

    def jitter(image: jax.Array, key: jax.Array) -> jax.Array:
        scale_key, top_key, left_key = jax.random.split(key, 3)
        scale = jax.random.randint(scale_key, (), low, high + 1)
        axes = []
        for place_key, old, window in ((top_key, height, goal[0]), (left_key, width, goal[1])):
            new = scale * old // short
            start = jax.random.randint(place_key, (), 0, new - window + 1)
            step = old / new.astype(jnp.float32)
            axes.append(_taps(window, (0, old), start, step, old / (low * old // short)))
        return _resampled(image, *axes)

    return change_images(batch, key, jitter)


def random_box(
    key: jax.Array, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return `(top, left, height, width)` of a random part of an image, in whole pixels.

    Its area is uniform, its ratio uniform in the logarithm; of ten attempts the first that fits is taken, and if none
    does, the centre at the nearest ratio.
    """
    area_key, ratio_key, top_key, left_key = jax.random.split(key, 4)
    area = height * width * uniform(area_key, *scale, (_ATTEMPTS,))
    aspect = jnp.exp(uniform(ratio_key, math.log(ratio[0]), math.log(ratio[1]), (_ATTEMPTS,)))
    wide = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
    tall = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    any_fits, first = fits.any(), jnp.argmax(fits)
    last_tall = max(1, round(width / ratio[0])) if width / height < ratio[0] else height
    last_wide = max(1, round(height * ratio[1])) if width / height > ratio[1] else width
    tall, wide = jnp.where(any_fits, tall[first], last_tall), jnp.where(any_fits, wide[first], last_wide)
    top = jnp.where(any_fits, jax.random.randint(top_key, (), 0, height - tall + 1), (height - last_tall) // 2)
    left = jnp.where(any_fits, jax.random.randint(left_key, (), 0, width - wide + 1), (width - last_wide) // 2)
    return top, left, tall, wide


def resize_box(
    image: jax.Array, box: tuple[jax.Array, jax.Array, jax.Array, jax.Array], size: tuple[int, int]
) -> jax.Array:
    """Return the part `(top, left, height, width)` of an image `[H, W, C]`, resized to `size`."""
    axes = []
    for first, part, old, new in zip(box[:2], box[2:], image.shape[:2], size):
        step = jnp.asarray(part, jnp.float32) / new
        axes.append(_taps(new, (first, first + part), 0, step, old / new))
    return _resampled(image, *axes)


def _as_size(size: int | tuple[int, int] | None, default: tuple[int, int]) -> tuple[int, int]:
    return default if size is None else (size, size) if isinstance(size, int) else size


def _taps(
    new: int, part: tuple[jax.Array | int, jax.Array | int], start: jax.Array | int, step: jax.Array, greatest: float
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Return which old pixels go into each new one along one axis, and how much of each: `[new]`, tap by tap."""
    reach = jnp.maximum(step, 1.0)
    first = jnp.asarray(part[0], jnp.float32)
    centres = first + rounded(((start + jnp.arange(new)).astype(jnp.float32) + 0.5) * step)
    lowest = jnp.floor(centres - reach + 0.5).astype(jnp.int32)
    places, weights = [], []
    for tap in range(math.ceil(2 * max(greatest, 1.0))):
        place = lowest + tap
        weight = jnp.maximum(0.0, 1.0 - jnp.abs(place.astype(jnp.float32) + 0.5 - centres) / reach)
        weights.append(jnp.where((place >= part[0]) & (place < part[1]), weight, 0.0))
        places.append(jnp.clip(place, part[0], part[1] - 1))
    total = add_in_order(weights)
    return places, [weight / total for weight in weights]


def _resampled(image: jax.Array, rows: tuple, columns: tuple) -> jax.Array:
    # Gathers: products of matrices are as fast on a CPU and round as the batch's size has it, and on accelerators to
    # half precision at that.
    dtype, image = image.dtype, image.astype(jnp.float32)
    image = add_in_order([rounded(weight[:, None, None] * image[place]) for place, weight in zip(*rows)])
    image = add_in_order([rounded(weight[None, :, None] * image[:, place]) for place, weight in zip(*columns)])
    return image.astype(dtype)
