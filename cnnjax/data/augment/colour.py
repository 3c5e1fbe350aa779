"""Augmentations that change colours, on images in [0, 1] as torchvision has them, and the way there and back."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.batch import Batch
from cnnjax.data.augment.keys import add_in_order, change_images, exact_mean, rounded, uniform
from cnnjax.errors import UsageError

Change = Callable[[jax.Array, jax.Array], jax.Array]
Numbers = float | Sequence[float]


def colour_jitter(
    batch: Batch,
    key: jax.Array,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    mean: Numbers = 0.0,
    std: Numbers = 1.0,
) -> Batch:
    """Change brightness, contrast, saturation and hue of each image by random factors, in random order.

    Args:
      batch: Images `[N, H, W, C]`, C 1 or 3, normalised with `mean` and `std`. Grey ones have no saturation and hue.
      key: PRNG key.
      brightness: The factor is uniform in `[max(0, 1 - brightness), 1 + brightness]`; 0 for no change.
      contrast: The same for the contrast.
      saturation: The same for the saturation.
      hue: The hue turns by a part of the circle that is uniform in `[-hue, hue]`, at most 0.5.
      mean: What the images were normalised with, per channel or one number: the mean of images in [0, 1].
      std: The same for the standard deviation.
    Returns:
      The batch with the images changed, cut off at 0 and 1, and normalised again; computed in float32.
    Raises:
      UsageError: If the images have another number of channels, or an amount is out of its range.
    References:
      torchvision's `ColorJitter`.
    """
    if min(brightness, contrast, saturation, hue) < 0 or hue > 0.5:
        raise UsageError(
            "colour-jitter: expected amounts of at least 0, and a hue of at most 0.5, got "
            f"{brightness}, {contrast}, {saturation} and {hue}."
        )
    amounts = {adjust_brightness: brightness, adjust_contrast: contrast, adjust_saturation: saturation}
    ranges = {adjust: (max(0.0, 1 - amount), 1 + amount) for adjust, amount in amounts.items() if amount}
    ranges |= {adjust_hue: (-hue, hue)} if hue else {}

    def jitter(image: jax.Array, key: jax.Array) -> jax.Array:
        order_key, *keys = jax.random.split(key, len(ranges) + 1)
        changes = [
            functools.partial(adjust, factor=uniform(k, low, high))
            for k, (adjust, (low, high)) in zip(keys, ranges.items())
        ]
        for number in jax.random.permutation(order_key, len(changes)):
            image = jax.lax.switch(number, changes, image)
        return image

    return change_colours("colour-jitter", batch, key, jitter, mean, std) if ranges else batch


def change_colours(name: str, batch: Batch, key: jax.Array, change: Change, mean: Numbers, std: Numbers) -> Batch:
    """Return the batch with `change(image, key)` for each image, given and taken in [0, 1], float32."""
    channels = batch.image.shape[-1]
    if channels not in (1, 3):
        raise UsageError(f"{name}: expected images of 1 or 3 channels, grey or RGB, got {channels}.")
    centre, spread = (_per_channel(name, numbers, channels) for numbers in (mean, std))

    def on_pixels(image: jax.Array, key: jax.Array) -> jax.Array:
        changed = change(rounded(image.astype(jnp.float32) * spread) + centre, key)
        return ((changed - centre) / spread).astype(image.dtype)

    return change_images(batch, key, on_pixels)


def adjust_brightness(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Return `image`, `[H, W, C]` in [0, 1], times `factor`, at most 1."""
    return jnp.clip(image * factor, 0.0, 1.0)


def adjust_contrast(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Return a mixture of the image, `[H, W, C]` in [0, 1], and its mean grey."""
    return blend(image, exact_mean(grey(image)), factor)


def adjust_saturation(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Return a mixture of the image, `[H, W, C]` in [0, 1], and what it is in grey; a grey image as it is."""
    return image if image.shape[-1] == 1 else blend(image, grey(image), factor)


def adjust_hue(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Return the image, `[H, W, C]` in [0, 1], with its hues turned by a part of the circle; a grey image as it is."""
    if image.shape[-1] == 1:
        return image
    red, green, blue = (image[..., c] for c in range(3))
    value, low = image.max(-1), image.min(-1)
    spread = value - low
    unit = jnp.where(spread > 0, spread, 1.0)
    sector = jnp.where(
        value == red,
        (green - blue) / unit,
        jnp.where(value == green, 2 + (blue - red) / unit, 4 + (red - green) / unit),
    )
    sector = sector + rounded(6 * jnp.asarray(factor, image.dtype))
    # Each channel's distance from the brightest one around the circle of six sectors says how much it loses.
    # (By floor: XLA's remainder of floats takes ten times as long on a CPU.)
    turns = [(sector + offset) / 6 for offset in (5, 3, 1)]
    places = [rounded(6 * (turn - jnp.floor(turn))) for turn in turns]
    losses = [rounded(spread * jnp.clip(jnp.minimum(k, 4 - k), 0.0, 1.0)) for k in places]
    return jnp.stack([value - loss for loss in losses], -1)


def grey(image: jax.Array) -> jax.Array:
    """Return `[H, W, 1]`: the luma of ITU-R BT.601 of an RGB image, a grey image as it is."""
    if image.shape[-1] == 1:
        return image
    return add_in_order([rounded(share * image[..., c, None]) for c, share in enumerate((0.2989, 0.587, 0.114))])


def blend(image: jax.Array, other: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Return `factor` of the image and the rest of the other, cut off at 0 and 1; a factor above 1 leads away."""
    return jnp.clip(rounded(image * factor) + rounded((1 - factor) * other), 0.0, 1.0)


def _per_channel(name: str, numbers: Numbers, channels: int) -> np.ndarray:
    array = np.atleast_1d(np.asarray(numbers, np.float32))
    if array.shape not in ((1,), (channels,)):
        raise UsageError(
            f"{name}: expected one mean and standard deviation for each of {channels} channels, got {array.size}."
        )
    return np.broadcast_to(array, (1, 1, channels))
