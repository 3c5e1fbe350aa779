"""Sums over all pixels by adding slices of the images, which takes every core and whole vectors.

XLA's own reduction to a few channels runs on one core, and one number at a time where a product is fused into it; its
YNNPACK fusion is fast but computes garbage in places (`cnnjax.ops.xla_faults`), so the command line goes without it.
"""

import functools
import math
import operator

import jax.numpy as jnp

from cnnjax.ops.cpu.blocks import noinline

_SLICES = 8  # added at a time: each pass leaves an eighth for the next to read
_LEAST = 64  # pixels that are summed as they are
_SMALL = 1 << 17  # numbers for which several passes take longer than XLA's own reduction


def over_pixels(*factors, centre=None, power=1):
    """Return the sum of a product of arrays `[..., C]` over all axes but the last, half precision in float32.

    Args:
      *factors: The arrays.
      centre: One number a channel that is taken from the first of them, or None.
      power: What that is then raised to, 1 or 2.
    Example:
      >>> over_pixels(jnp.ones((100, 2)), jnp.full((100, 2), 3.0)).tolist()
      [300.0, 300.0]
    """
    *axes, channels = factors[0].shape
    if factors[0].size < _SMALL:
        rows = [factor.reshape(-1, channels) for factor in factors]
        return _product(rows, power, centre, factors[0].dtype).sum(0).astype(factors[0].dtype)
    size = math.prod(axes) // _SLICES
    wide = math.gcd(size, 64) if channels < 64 else 1  # pixels side by side, so that a few channels fill a vector
    centres = [None, None] if centre is None else [jnp.tile(centre, wide), centre]
    slices = _first(factors, centres[0], length=size * channels, power=power)
    tail = _tail(factors, centres[1], start=size * _SLICES, power=power)
    return over_rows(slices.reshape(size, channels), tail).astype(factors[0].dtype)


# Stages, or XLA would compute what makes a factor again for each sum of it, and fuse the passes into a single one that
# reads 64 places at a time.
@noinline
def _first(factors, centre, *, length: int, power: int):
    """Return an eighth of the products, the others added to them."""
    shape = (1, length) if centre is None else (length // centre.size, centre.size)
    flat = [factor.reshape(-1) for factor in factors]
    parts = [[x[i * length : (i + 1) * length].reshape(shape) for x in flat] for i in range(_SLICES)]
    return _added([_product(part, power, centre, factors[0].dtype) for part in parts])


@noinline
def _tail(factors, centre, *, start: int, power: int):
    """Return the few products that eight does not divide: `[pixels, C]`."""
    rows = [factor.reshape(-1, factor.shape[-1])[start:] for factor in factors]
    return _product(rows, power, centre, factors[0].dtype)


@noinline
def over_rows(x, *rest):
    """Return the sum of the rows of matrices."""
    channels, parts = x.shape[1], list(rest)
    while x.shape[0] > _LEAST:
        size = x.shape[0] // _SLICES
        parts.append(x[size * _SLICES :])
        x = _added(list(x[: size * _SLICES].reshape(_SLICES, size * channels))).reshape(size, channels)
    return _added([part.sum(0) for part in (x, *parts)])


def _product(factors, power, centre, dtype):
    first, *others = (factor.astype(jnp.promote_types(dtype, jnp.float32)) for factor in factors)
    first = first if centre is None else first - centre[None]
    return functools.reduce(operator.mul, others, first * first if power == 2 else first)


def _added(parts):
    return functools.reduce(operator.add, parts)
