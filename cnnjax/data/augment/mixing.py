"""Mixing: each image with another of its batch, its label with the other's."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from cnnjax.batch import Batch
from cnnjax.data.augment.keys import Augment, example_keys
from cnnjax.errors import UsageError


def mixup(batch: Batch, key: jax.Array, *, alpha: float) -> Batch:
    """Mix each image with another of the batch: `weight * image + (1 - weight) * other`.

    Each example draws its own weight, from the example's key. (The paper's own code draws one a batch.)

    Args:
      batch: Images `[N, H, W, C]`, normalised or not.
      key: PRNG key.
      alpha: Shares are of the distribution Beta(alpha, alpha); more than 0, and the larger, the nearer to a half.
    Returns:
      The batch with the images mixed, and with `mixed_label` and `mix_weight`. Partners are a random permutation of the
      real examples: nothing of one that only fills the batch up is mixed in.
    Raises:
      UsageError: If the batch is mixed already, or `alpha` is not positive.
    References:
      Zhang et al., 2017, https://arxiv.org/abs/1710.09412: 0.2 for ImageNet, 1 for CIFAR.
    """
    _check("mixup", batch, alpha)

    def mixed(image: jax.Array, other: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        weight = jax.random.beta(key, alpha, alpha)
        blended = weight * image.astype(jnp.float32) + (1 - weight) * other.astype(jnp.float32)
        return blended.astype(image.dtype), weight

    return _mixed(batch, key, mixed)


def cutmix(batch: Batch, key: jax.Array, *, alpha: float) -> Batch:
    """Replace a rectangle of each image by the same part of another of the batch.

    The rectangle has the image's proportions, any pixel as its centre, and, before its parts outside the image are
    cut off, an area of `1 - weight`, the weight being of Beta(alpha, alpha). Each example draws its own.

    Args:
      batch: Images `[N, H, W, C]`, normalised or not.
      key: PRNG key.
      alpha: More than 0; 1 makes areas uniform.
    Returns:
      The batch with the images mixed, and with `mixed_label` and `mix_weight`: the part of the image's area that is its
      own, exactly. Partners are as in `mixup`.
    Raises:
      UsageError: If the batch is mixed already, or `alpha` is not positive.
    References:
      Yun et al., 2019, https://arxiv.org/abs/1905.04899, with alpha 1.
    """
    _check("cutmix", batch, alpha)
    _, height, width, _ = batch.image.shape

    def mixed(image: jax.Array, other: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        share_key, row_key, column_key = jax.random.split(key, 3)
        side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha))
        rows, columns = _inside(row_key, side, height), _inside(column_key, side, width)
        kept = ~(rows[:, None] & columns[None, :])
        return jnp.where(kept[..., None], image, other), kept.sum() / (height * width)

    return _mixed(batch, key, mixed)


def one_of(batch: Batch, key: jax.Array, *, choices: Sequence[Augment]) -> Batch:
    """Apply one of several augmentations to the whole batch, each as likely.

    Args:
      batch: The batch.
      key: PRNG key.
      choices: Functions `(batch, key) -> batch` whose results have the same fields, such as `mixup` and `cutmix` with
        their numbers.
    Returns:
      What the chosen one returns.
    """
    choice_key, _ = _batch_keys(batch, key)
    number = jax.random.randint(choice_key, (), 0, len(choices))
    return jax.lax.switch(number, choices, batch, key)


def _check(name: str, batch: Batch, alpha: float) -> None:
    if not alpha > 0:
        raise UsageError(f"{name}: expected more than 0, such as {name}:1.0, got {alpha}.")
    if batch.mix_weight is not None:
        raise UsageError(f"{name}: expected a batch that is not mixed yet, got one that is; mix once.")


def _mixed(batch: Batch, key: jax.Array, mix: Callable) -> Batch:
    count = len(batch.image)
    mask = jnp.ones(count, bool) if batch.mask is None else jnp.asarray(batch.mask)
    _, partner_key = _batch_keys(batch, key)
    partner = _partners(mask, partner_key)
    image, weight = jax.vmap(mix)(batch.image, batch.image[partner], example_keys(batch, key))
    image = jnp.where(mask[:, None, None, None], image, batch.image)
    weight = jnp.where(mask, weight.astype(jnp.float32), 1.0)
    return batch.replace(image=image, mixed_label=batch.label[partner], mix_weight=weight)


def _batch_keys(batch: Batch, key: jax.Array) -> jax.Array:
    """Return two keys for what is drawn once a batch: the choice among several, and the partners.

    They come from the batch's first example, for the step's number is not in `key`; no example folds in so large a
    number.
    """
    return jax.random.split(jax.random.fold_in(example_keys(batch, key)[0], 2**32 - 1))


def _partners(mask: jax.Array, key: jax.Array) -> jax.Array:
    """Return a permutation of the places `[0, N)` under which real ones stay among themselves, and others at home."""
    drawn = jnp.where(mask, jax.random.uniform(key, mask.shape), 2.0)
    ordered, shuffled = jnp.argsort(~mask, stable=True), jnp.argsort(drawn, stable=True)
    return jnp.zeros_like(ordered).at[ordered].set(shuffled)


def _inside(key: jax.Array, part: jax.Array, length: int) -> jax.Array:
    """Return which of `length` pixels in a row lie in a window of a part of it, about a random centre."""
    half = (part * length).astype(jnp.int32) // 2
    centre, places = jax.random.randint(key, (), 0, length), jnp.arange(length)
    return (centre - half <= places) & (places < centre + half)
