"""Augmentations: pure functions of a batch and a key, run inside the jitted step.

Each example draws from its own key, the batch's with the example's place in it folded in, so what happens to it does
not depend on how many examples come after it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cnnjax.batch import Batch
from cnnjax.errors import UsageError, unknown

Augment = Callable[[Batch, jax.Array], Batch]


def translate(batch: Batch, key: jax.Array, *, pixels: int) -> Batch:
    """Shift each image by up to `pixels` in each direction, repeating its border.

    Args:
      batch: Images `[N, H, W, C]`, any range.
      key: PRNG key.
      pixels: Greatest shift, at least 0; every whole shift in `[-pixels, pixels]` is as likely.
    Returns:
      The batch with the images shifted.
    Raises:
      UsageError: If `pixels` is as large as the image.
    """
    return _shifted("translate", batch, key, pixels, mode="edge")


def pad_crop(batch: Batch, key: jax.Array, *, pixels: int) -> Batch:
    """Pad each image with `pixels` zeros on every side and cut a window of the old size out at a random place.

    Images are normalised when they come here, so zero is the mean of the training images and not black. So it is in
    the paper, which subtracts the mean image first; torchvision's habit, `RandomCrop(32, padding=4)` before
    `Normalize`, pads with black.

    Args:
      batch: Normalised images `[N, H, W, C]`.
      key: PRNG key.
      pixels: Zeros on each side, at least 0; every whole shift in `[-pixels, pixels]` is as likely.
    Returns:
      The batch with the images shifted.
    Raises:
      UsageError: If `pixels` is as large as the image.
    References:
      He et al., 2015, https://arxiv.org/abs/1512.03385, section 4.2, with 4 pixels.
    """
    return _shifted("pad-crop", batch, key, pixels, mode="constant")


def flip(batch: Batch, key: jax.Array) -> Batch:
    """Mirror each image left to right with probability 1/2.

    Args:
      batch: Images `[N, H, W, C]`, any range.
      key: PRNG key.
    Returns:
      The batch with about half of the images mirrored.
    """
    chosen = jax.vmap(jax.random.bernoulli)(_keys(key, batch))
    return batch.replace(image=jnp.where(chosen[:, None, None, None], batch.image[:, :, ::-1], batch.image))


def cutout(batch: Batch, key: jax.Array, *, size: int) -> Batch:
    """Set a square of each image to zero: to the mean of the training images, for they are normalised by then.

    The square's centre is any pixel with equal probability, so part of the square may lie outside the image.

    Args:
      batch: Normalised images `[N, H, W, C]`.
      key: PRNG key.
      size: Pixels a side, at least 0. It covers the rows `[i - size // 2, i - size // 2 + size)` for a centre in row
        `i`, and columns likewise.
    Returns:
      The batch with the squares cut out.
    Raises:
      UsageError: If `size` is larger than the image.
    References:
      DeVries and Taylor, 2017, https://arxiv.org/abs/1708.04552: 16 for CIFAR-10, 8 for CIFAR-100.
    """
    _, height, width, _ = batch.image.shape
    if size > min(height, width):
        raise UsageError(f"cutout: expected at most {min(height, width)} pixels, the image's side, got {size}.")

    def outside(key: jax.Array) -> jax.Array:
        row_key, column_key = jax.random.split(key)
        row, column = (jax.random.randint(k, (), 0, n) for k, n in ((row_key, height), (column_key, width)))
        return ~(_covered(row, size, height)[:, None] & _covered(column, size, width)[None, :])

    kept = jax.vmap(outside)(_keys(key, batch))
    return batch.replace(image=jnp.where(kept[..., None], batch.image, 0))


class _Named(NamedTuple):
    """A function, and what its number is called; None for one that takes no number."""

    function: Callable[..., Batch]
    number: str | None


_BY_NAME = {
    "translate": _Named(translate, "pixels"),
    "pad-crop": _Named(pad_crop, "pixels"),
    "flip": _Named(flip, None),
    "cutout": _Named(cutout, "size"),
}


def parse(texts: Sequence[str]) -> Augment | None:
    """Return the augmentation that texts such as `flip` and `pad-crop:4` name, one after the other.

    Args:
      texts: `translate:PIXELS`, `pad-crop:PIXELS`, `cutout:PIXELS` or `flip` each.
    Returns:
      `(batch, key) -> batch`, or None for no text.
    Raises:
      UsageError: If a name is not known, its number is missing, or it takes none.
    Example:
      >>> parse(["pad-crop:4", "flip"]) is None
      False
    """
    steps = [_parse_one(text) for text in texts]
    return functools.partial(_in_turn, steps) if steps else None


def _parse_one(text: str) -> Augment:
    name, colon, number = text.partition(":")
    if name not in _BY_NAME:
        raise unknown("augmentation", name, _BY_NAME)
    function, parameter = _BY_NAME[name]
    if parameter is None:
        if colon:
            raise UsageError(f"augmentation {text!r}: expected {name}, which takes no number.")
        return function
    if not (number.isascii() and number.isdigit()):
        raise UsageError(f"augmentation {text!r}: expected {name}:PIXELS, such as {name}:4.")
    return functools.partial(function, **{parameter: int(number)})


def _in_turn(steps: Sequence[Augment], batch: Batch, key: jax.Array) -> Batch:
    for number, step in enumerate(steps):
        batch = step(batch, jax.random.fold_in(key, number))
    return batch


def _keys(key: jax.Array, batch: Batch) -> jax.Array:
    return jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(len(batch.image)))


def _shifted(name: str, batch: Batch, key: jax.Array, pixels: int, *, mode: str) -> Batch:
    _, height, width, channels = batch.image.shape
    if pixels >= min(height, width):
        raise UsageError(f"{name}: expected fewer than {min(height, width)} pixels, the image's side, got {pixels}.")
    padded = jnp.pad(batch.image, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), mode=mode)

    # One gather of whole windows: on a CPU 0.26 ms for 128 images of 32x32x3, as fast as gathers with indices of our
    # own and 7 to 50 times as fast as products with shift matrices or a chain of selections.
    def shift(image: jax.Array, key: jax.Array) -> jax.Array:
        top, left = jax.random.randint(key, (2,), 0, 2 * pixels + 1)
        return jax.lax.dynamic_slice(image, (top, left, 0), (height, width, channels))

    return batch.replace(image=jax.vmap(shift)(padded, _keys(key, batch)))


def _covered(centre: jax.Array, size: int, length: int) -> jax.Array:
    """Return which of `length` pixels in a row the square covers."""
    first = centre - size // 2
    places = jnp.arange(length)
    return (first <= places) & (places < first + size)
