"""Sums over all pixels by adding slices of the images, which takes every core and whole vectors.

XLA's own reduction to a few channels runs on one core, and one number at a time where a product is fused into it; its
YNNPACK fusion is fast but computes garbage in places (`cnnjax.ops.opaque`), so the command line goes without it.
"""

import functools
import operator

from cnnjax.ops.cpu import blocks
from cnnjax.ops.cpu.stages import stage

_SLICES = 8  # added at a time: each pass leaves an eighth for the next to read
_LEAST = 64  # pixels that are summed as they are


# Stages, or XLA would compute what makes x again for each sum of it, and fuse the passes into a single one that reads
# 64 places at a time.
def over_pixels(x):
    """Return the sum of `[N, ..., C]` over all axes but the last.

    Example:
      >>> import jax.numpy as jnp
      >>> over_pixels(jnp.ones((100, 2))).tolist()
      [100.0, 100.0]
    """
    return _rest(_images(x))


def of_products(x, y):
    """Return the sum of `x * y`, two `[N, ..., C]`, over all axes but the last.

    Example:
      >>> import jax.numpy as jnp
      >>> of_products(jnp.ones((100, 2)), 3 * jnp.ones((100, 2))).tolist()
      [300.0, 300.0]
    """
    return _rest(_images(x, y))


@stage
def _images(*factors):
    """Add the products of several images, up to eight at a time."""
    x = functools.reduce(operator.mul, factors)
    size = x.shape[0] // blocks.divisor(x.shape[0], _SLICES)
    return _added([x[start : start + size] for start in range(0, x.shape[0], size)])


@stage
def _rest(x):
    channels, rest = x.shape[-1], []
    x = x.reshape(-1, channels)
    while x.shape[0] > _LEAST:
        size = x.shape[0] // _SLICES
        rest.append(x[size * _SLICES :])
        x = _added(list(x[: size * _SLICES].reshape(_SLICES, size * channels))).reshape(size, channels)
    return _added([part.sum(0) for part in (x, *rest) if part.shape[0]])


def _added(parts):
    return functools.reduce(operator.add, parts)
