"""Augmentations: pure functions of a batch and a key, run inside the jitted step."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from cnnjax.batch import Batch
from cnnjax.errors import UsageError, unknown

Augment = Callable[[Batch, jax.Array], Batch]


def translate(batch: Batch, key: jax.Array, *, pixels: int) -> Batch:
    """Shift each image by up to `pixels` in each direction, repeating its border.

    Each example draws from its own key, the batch's with its place folded in.

    Args:
      batch: Images `[N, H, W, C]`, any range.
      key: PRNG key.
      pixels: Greatest shift, at least 0; every whole shift in `[-pixels, pixels]` is as likely.
    Returns:
      The batch with the images shifted.
    Raises:
      UsageError: If `pixels` is as large as the image.
    """
    _, height, width, channels = batch.image.shape
    if pixels >= min(height, width):
        raise UsageError(f"translate: expected fewer than {min(height, width)} pixels, the image's side, got {pixels}.")
    padded = jnp.pad(batch.image, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")

    def shift(image: jax.Array, place: jax.Array) -> jax.Array:
        top, left = jax.random.randint(jax.random.fold_in(key, place), (2,), 0, 2 * pixels + 1)
        return jax.lax.dynamic_slice(image, (top, left, 0), (height, width, channels))

    return batch.replace(image=jax.vmap(shift)(padded, jnp.arange(len(padded))))


_BY_NAME = {"translate": lambda number: functools.partial(translate, pixels=number)}


def parse(texts: Sequence[str]) -> Augment | None:
    """Return the augmentation that texts such as `translate:2` name, one after the other.

    Args:
      texts: `name:number` each.
    Returns:
      `(batch, key) -> batch`, or None for no text.
    Raises:
      UsageError: If a name is not known or the number is missing.
    Example:
      >>> parse(["translate:2"]) is None
      False
    """
    steps: list[Augment] = []
    for text in texts:
        name, _, number = text.partition(":")
        if name not in _BY_NAME:
            raise unknown("augmentation", name, _BY_NAME)
        if not number.isdigit():
            raise UsageError(f"augmentation {text!r}: expected {name}:PIXELS, such as {name}:2.")
        steps.append(_BY_NAME[name](int(number)))
    return functools.partial(_in_turn, steps) if steps else None


def _in_turn(steps: Sequence[Augment], batch: Batch, key: jax.Array) -> Batch:
    for number, step in enumerate(steps):
        batch = step(batch, jax.random.fold_in(key, number))
    return batch
