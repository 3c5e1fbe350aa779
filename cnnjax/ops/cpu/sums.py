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


def over_pixels(x):
    """Return the sum of `[N, ..., C]` over all axes but the last.

    Example:
      >>> import jax.numpy as jnp
      >>> over_pixels(jnp.ones((100, 2))).tolist()
      [100.0, 100.0]
    """
    # Images first, without a reshape: then what makes x is fused into the sum as it stands.
    count = blocks.divisor(x.shape[0], _SLICES)
    size = x.shape[0] // count
    return _rest(_added([x[start : start + size] for start in range(0, x.shape[0], size)]))


# A stage, or XLA would fuse the passes into a single one that reads 64 places at a time.
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
