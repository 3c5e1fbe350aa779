"""Walk over a batch in blocks of images that stay in the cache."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def divisor(batch: int, most: int) -> int:
    """Return the largest divisor of the batch that is at most `most`, and 1 at the least.

    Example:
      >>> divisor(96, 40)
      32
    """
    return next(size for size in range(min(batch, max(most, 1)), 0, -1) if batch % size == 0)


def _split(array, size: int):
    return array.reshape(array.shape[0] // size, size, *array.shape[1:])


def total(f: Callable, x, g, size: int):
    """Return the sum of `f(block of x, block of g)`."""
    if size == x.shape[0]:
        return f(x, g)
    y = jax.eval_shape(f, x[:size], g[:size])
    start = jnp.zeros(y.shape, y.dtype)
    return lax.scan(lambda sums, block: (sums + f(*block), None), start, (_split(x, size), _split(g, size)))[0]
