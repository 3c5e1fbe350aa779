"""Keys of single examples: what chance does to one depends on the example and the epoch, not on its batch."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cnnjax.batch import Batch

Augment = Callable[[Batch, jax.Array], Batch]


def example_keys(batch: Batch, key: jax.Array) -> jax.Array:
    """Return a key for each example, the same whatever the batch's size and the example's place in it.

    With `batch.index` it is `fold_in(fold_in(key, epoch), index)`, the epoch being 0 where the batch does not say it;
    without, `fold_in(key, place)`, which depends on how many examples come before and not on how many come after.

    Args:
      batch: The batch; only its index, epoch and number of examples count.
      key: PRNG key. With an index, the same in every step of a run: what differs comes from the index and the epoch.
    Returns:
      PRNG keys, `[N]`.
    """
    if batch.index is None:
        return jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(len(batch.image)))
    index = jnp.asarray(batch.index)
    epoch = jnp.broadcast_to(0 if batch.epoch is None else jnp.asarray(batch.epoch), index.shape)
    return jax.vmap(lambda e, i: jax.random.fold_in(jax.random.fold_in(key, e), i))(epoch, index)


def change_images(batch: Batch, key: jax.Array, change: Callable[[jax.Array, jax.Array], jax.Array]) -> Batch:
    """Return the batch with `change(image, key)` for each image `[H, W, C]`, each with its own key."""
    return batch.replace(image=jax.vmap(change)(batch.image, example_keys(batch, key)))
