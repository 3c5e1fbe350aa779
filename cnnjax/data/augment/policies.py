"""RandAugment: operations drawn from a list, all of one magnitude."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.batch import Batch
from cnnjax.data.augment import colour
from cnnjax.data.augment.colour import Numbers, change_colours
from cnnjax.data.augment.keys import rounded
from cnnjax.errors import UsageError

# torchvision's names and order.
OPERATIONS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
GREATEST = 30
_LEVELS = 256


def randaugment(
    batch: Batch,
    key: jax.Array,
    *,
    num_ops: int = 2,
    magnitude: int = 9,
    mean: Numbers = 0.0,
    std: Numbers = 1.0,
) -> Batch:
    """Apply operations to each image that are drawn from torchvision's list of 14, with replacement.

    Shears, shifts, rotations and factors have either sign with the same probability; moved images are sampled at the
    nearest pixel, and black comes in.

    Args:
      batch: Images `[N, H, W, C]`, C 1 or 3, normalised with `mean` and `std`.
      key: PRNG key.
      num_ops: Operations an image, at least 0.
      magnitude: How strong they are, 0 to 30: 30 is a shear of 0.3, a shift of 0.45 of the side, a rotation of 30
        degrees, a factor of 0.1 or 1.9, 16 tones a channel, everything inverted.
      mean: What the images were normalised with, per channel or one number: the mean of images in [0, 1].
      std: The same for the standard deviation.
    Returns:
      The batch with the images changed and normalised again; computed in float32.
    Raises:
      UsageError: If the images have neither 1 nor 3 channels, or a number is out of its range.
    References:
      Cubuk et al., 2019, https://arxiv.org/abs/1909.13719, with 2 operations of magnitude 9 for ImageNet; the list
      and its magnitudes are those of torchvision's `RandAugment`, 31 bins.
    """
    if num_ops < 0 or not 0 <= magnitude <= GREATEST:
        raise UsageError(
            f"randaugment: expected operations of at least 0 and a magnitude of 0 to {GREATEST}, got {num_ops} and "
            f"{magnitude}."
        )

    def change(image: jax.Array, key: jax.Array) -> jax.Array:
        for number in range(num_ops):
            operation_key, sign_key = jax.random.split(jax.random.fold_in(key, number))
            operation = jax.random.randint(operation_key, (), 0, len(OPERATIONS))
            image = apply_operation(image, operation, jax.random.bernoulli(sign_key), magnitude=magnitude)
        return image

    return change_colours("randaugment", batch, key, change, mean, std)


def apply_operation(image: jax.Array, number: jax.Array, negative: jax.Array, *, magnitude: int) -> jax.Array:
    """Apply the operation of a number in `OPERATIONS` to one image, `[H, W, C]` in [0, 1]."""
    # Under vmap every branch is computed for every image: so the moves share one gather, a table telling them apart.
    height, width, _ = image.shape
    sign = negative.astype(jnp.int32)
    image = sample_nearest(image, jnp.asarray(_moves(magnitude, height, width))[number, sign])
    factor = jnp.where(negative, 1 - 0.9 * magnitude / GREATEST, 1 + 0.9 * magnitude / GREATEST)
    bits = round(8 - magnitude / (GREATEST / 4))
    changes: dict[str, Callable[[jax.Array], jax.Array]] = {
        "Brightness": lambda x: colour.adjust_brightness(x, factor),
        "Color": lambda x: colour.adjust_saturation(x, factor),
        "Contrast": lambda x: colour.adjust_contrast(x, factor),
        "Sharpness": lambda x: adjust_sharpness(x, factor),
        "Posterize": lambda x: posterize(x, bits),
        "Solarize": lambda x: solarize(x, 1 - magnitude / GREATEST),
        "AutoContrast": autocontrast,
        "Equalize": equalize,
    }
    branches = [lambda x: x, *changes.values()]
    branch = np.array([1 + list(changes).index(name) if name in changes else 0 for name in OPERATIONS])
    return jax.lax.switch(jnp.asarray(branch)[number], branches, image)


def sample_nearest(image: jax.Array, move: jax.Array) -> jax.Array:
    """Return the image whose pixel (row, column) is the one of `image` nearest to `move @ (row, column, 1)`, or 0."""
    height, width, channels = image.shape
    row, column = jnp.arange(height, dtype=jnp.float32)[:, None], jnp.arange(width, dtype=jnp.float32)[None, :]
    rows, columns = (jnp.round(rounded(m[0] * row) + rounded(m[1] * column) + m[2]).astype(jnp.int32) for m in move)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    places = jnp.clip(rows, 0, height - 1) * width + jnp.clip(columns, 0, width - 1)
    moved = image.reshape(height * width, channels)[places]
    return jnp.where(inside[..., None], moved, 0.0)


def _moves(magnitude: int, height: int, width: int) -> np.ndarray:
    """Return `[operation, sign, 2, 3]`: from (row, column, 1) of the result to (row, column) of the image."""
    part = magnitude / GREATEST
    table = np.zeros((len(OPERATIONS), 2, 2, 3))
    table[..., :2] = np.eye(2)
    for number, sign in enumerate((1, -1)):
        across, down = (sign * int(150 / 331 * side * part) for side in (width, height))
        shear, angle = sign * 0.3 * part, sign * math.radians(30 * part)
        cos, sin = math.cos(angle), math.sin(angle)
        # Shears leave the outer edge of the first row or column where it is, half a pixel from its centre.
        moves = {
            "ShearX": [[1, 0, 0], [shear, 1, shear / 2]],
            "ShearY": [[1, shear, shear / 2], [0, 1, 0]],
            "TranslateX": [[1, 0, 0], [0, 1, -across]],
            "TranslateY": [[1, 0, -down], [0, 1, 0]],
            "Rotate": _about([[cos, sin], [-sin, cos]], (height - 1) / 2, (width - 1) / 2),
        }
        for name, move in moves.items():
            table[OPERATIONS.index(name), number] = move
    return table.astype(np.float32)


def _about(matrix: list[list[float]], row: float, column: float) -> np.ndarray:
    """Return the 2x3 matrix that turns about a place as `matrix` turns about the origin."""
    centre = np.array([row, column])
    turn = np.array(matrix)
    return np.column_stack([turn, centre - turn @ centre])


# What is done to the tones of one image `[H, W, C]` in [0, 1], beside `colour`: torchvision's, on floats.


def adjust_sharpness(image: jax.Array, factor: jax.Array | float) -> jax.Array:
    """Return a mixture of the image and a smoothed one; the outermost pixels stay as they are."""
    height, width, _ = image.shape
    if height <= 2 or width <= 2:
        return image
    inner = image[1:-1, 1:-1]
    window = [image[i : i + height - 2, j : j + width - 2] for i in range(3) for j in range(3)]
    smooth = (sum(window[1:], window[0]) + 4 * inner) / 13
    return jnp.clip(image.at[1:-1, 1:-1].set(colour.blend(inner, smooth, factor)), 0.0, 1.0)


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
