"""Keys of single examples, and arithmetic: what is done to one depends on it and the epoch, not on its batch.

How many examples a program is compiled for decides how XLA lays out its loops: in which order a reduction adds, and
where a product and a sum become one instruction that rounds once instead of twice. An example's image would then
depend on the batch that it comes in, if only in the last bit, and a bit becomes a pixel where something is rounded.
"""

import functools
import math
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


_LARGE = 3e38


def rounded(product: jax.Array) -> jax.Array:
    """Return a product to add something to, rounded by itself: the compiler can't see that nothing is cut off here."""
    return jnp.clip(product, -_LARGE, _LARGE)


def uniform(key: jax.Array, low: float, high: float, shape: tuple[int, ...] = ()) -> jax.Array:
    """Return numbers that are uniform in `[low, high)`, float32."""
    return low + rounded(jax.random.uniform(key, shape, jnp.float32) * (high - low))


def add_in_order(terms: list[jax.Array]) -> jax.Array:
    """Return the sum of a few arrays, the first two first."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def exact_mean(values: jax.Array) -> jax.Array:
    """Return the mean of values of at most 1, to 24 bits: sums of integers know no order."""
    bits = min(15, 30 - math.ceil(math.log2(values.size)))
    mean, rest = jnp.float32(0), values
    for place in range(1, math.ceil(24 / bits) + 1):
        rest = rest * 2.0**bits
        digit = jnp.floor(rest)
        rest = rest - digit
        mean = mean + digit.astype(jnp.int32).sum().astype(jnp.float32) / values.size / 2.0 ** (place * bits)
    return mean
