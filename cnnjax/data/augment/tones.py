"""What RandAugment does to the tones of one image `[H, W, C]` in [0, 1], beside `colour`: torchvision's, on floats."""

import jax
import jax.numpy as jnp

from cnnjax.data.augment.colour import blend

_LEVELS = 256


def adjust_sharpness(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Return a mixture of the image and a smoothed one; the outermost pixels stay as they are."""
    height, width, _ = image.shape
    if height <= 2 or width <= 2:
        return image
    inner = image[1:-1, 1:-1]
    window = [image[i : i + height - 2, j : j + width - 2] for i in range(3) for j in range(3)]
    smooth = (sum(window[1:], window[0]) + 4 * inner) / 13
    return jnp.clip(image.at[1:-1, 1:-1].set(blend(inner, smooth, factor)), 0.0, 1.0)


def posterize(image: jax.Array, bits: int) -> jax.Array:
    """Return the image in `2 ** bits` tones a channel, each the darkest of those it stands for."""
    tones = 2.0**bits
    return jnp.clip(jnp.floor(image * tones), 0.0, tones - 1) / tones


def solarize(image: jax.Array, threshold: float) -> jax.Array:
    """Return the image with every value of at least the threshold taken from 1."""
    return jnp.where(image >= threshold, 1 - image, image)


def autocontrast(image: jax.Array) -> jax.Array:
    """Return the image with each channel stretched to all of [0, 1]; a channel of one value stays as it is."""
    low, high = image.min((0, 1), keepdims=True), image.max((0, 1), keepdims=True)
    same = high == low
    stretched = (image - jnp.where(same, 0.0, low)) / jnp.where(same, 1.0, high - low)
    return jnp.clip(stretched, 0.0, 1.0)


def equalize(image: jax.Array) -> jax.Array:
    """Return the image with the histogram of each channel, of 256 tones, made as even as Pillow makes it."""
    # torchvision's way from [0, 1] to 256 tones of equal width, the last closed.
    tones = jnp.clip(jnp.floor(image * (_LEVELS - 1e-3)), 0.0, _LEVELS - 1).astype(jnp.int32)
    flat = tones.reshape(-1, image.shape[-1])
    return jax.vmap(_equalized, in_axes=1, out_axes=1)(flat).reshape(image.shape) / (_LEVELS - 1)


def _equalized(tones: jax.Array) -> jax.Array:
    counts = jnp.zeros(_LEVELS, jnp.int32).at[tones].add(1)
    step = (len(tones) - counts[tones.max()]) // (_LEVELS - 1)
    before = jnp.cumsum(counts) - counts
    table = jnp.clip((before + step // 2) // jnp.maximum(step, 1), 0, _LEVELS - 1)
    table = jnp.where(step == 0, jnp.arange(_LEVELS), table)
    return table[tones].astype(jnp.float32)
