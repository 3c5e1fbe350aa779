"""Arithmetic whose rounding is the same whatever the batch's size.

How many examples a program is compiled for decides how XLA lays out its loops: in which order a reduction adds, and
where a product and a sum become one instruction that rounds once instead of twice. An example's image would then
depend on the batch that it comes in, if only in the last bit, and a bit becomes a pixel where something is rounded.
"""

import math

import jax
import jax.numpy as jnp

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
