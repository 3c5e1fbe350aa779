"""Sums over all pixels by adding slices of the images, which takes every core and whole vectors.

XLA's own reduction to a few channels runs on one core, and one number at a time where a product is fused into it; its
YNNPACK fusion is fast but computes garbage in places (`cnnjax.ops.opaque`), so the command line goes without it.
"""

import functools
import math
import operator

import jax.numpy as jnp

from cnnjax.ops.cpu.stages import stage

_SLICES = 8  # added at a time: each pass leaves an eighth for the next to read
_LEAST = 64  # pixels that are summed as they are
_SMALL = 1 << 17  # numbers for which several passes take longer than XLA's own reduction


def over_pixels(*factors):
    """Return the sum of a product of arrays `[..., C]` over all axes but the last, half precision in float32.

    Example:
      >>> over_pixels(jnp.ones((100, 2)), jnp.full((100, 2), 3.0)).tolist()
      [300.0, 300.0]
    """
    *axes, channels = factors[0].shape
    if factors[0].size < _SMALL:
        x = functools.reduce(operator.mul, factors)
        return jnp.sum(x, tuple(range(len(axes))))
    size = math.prod(axes) // _SLICES
    slices = _first(*factors, length=size * channels).reshape(size, channels)
    return _rest(slices, _tail(*factors, start=size * _SLICES * channels)).astype(factors[0].dtype)


# Stages, or XLA would compute what makes a factor again for each sum of it, and fuse the passes into a single one that
# reads 64 places at a time.
@stage
def _first(*factors, length: int):
    """Return an eighth of the products, flat, the others added to them."""
    return _added([_product(factors, i * length, (i + 1) * length) for i in range(_SLICES)])


@stage
def _tail(*factors, start: int):
    """Return the few products that eight does not divide: `[pixels, C]`."""
    return _product(factors, start, factors[0].size).reshape(-1, factors[0].shape[-1])


@stage
def _rest(x, *rest):
    channels, parts = x.shape[1], list(rest)
    while x.shape[0] > _LEAST:
        size = x.shape[0] // _SLICES
        parts.append(x[size * _SLICES :])
        x = _added(list(x[: size * _SLICES].reshape(_SLICES, size * channels))).reshape(size, channels)
    return _added([part.sum(0) for part in (x, *parts)])


def _product(factors, start: int, stop: int):
    dtype = jnp.promote_types(factors[0].dtype, jnp.float32)
    return functools.reduce(operator.mul, (factor.reshape(-1)[start:stop].astype(dtype) for factor in factors))


def _added(parts):
    return functools.reduce(operator.add, parts)
