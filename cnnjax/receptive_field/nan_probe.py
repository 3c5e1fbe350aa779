"""What a function really reads, found by running it: a NaN in the input turns every output that reads it to NaN."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import jax_versions
from cnnjax.ops.dispatch import plain_convolutions

# Winograd's algorithm spreads NaN over a tile, and XLA's fused pools on a CPU drop it.
_NO_FUSION = {jax_versions.YNN_FUSION: ""}
# Compiling takes longer than running does, which happens once.
_QUICK = {jax_versions.NO_EXPENSIVE_PASSES: "True"}


@dataclass(frozen=True)
class Support:
    """Hold which lines of the input each unit reads.

    Args:
      lines: For each spatial axis of the input `[units..., pixels]`, whether any pixel of that row or column is read.
    """

    lines: tuple[np.ndarray, ...]

    def interval(self, index: Sequence[int]) -> tuple[tuple[int, int] | None, ...]:
        """Return the first and last pixel that a unit reads along each axis, None if it reads nothing."""
        found = [np.flatnonzero(lines[tuple(index)]) for lines in self.lines]
        return tuple((int(read[0]), int(read[-1])) if read.size else None for read in found)


def probe(
    fn: Callable,
    input_shape: Sequence[int],
    *,
    spatial_axes: Sequence[int] = (1, 2),
    unit_axes: Sequence[int] = (1, 2),
    key: Any = None,
) -> Support:
    """Run a function on noise with one row or column of NaN, for each, and see which outputs turn NaN.

    Slower than `receptive_field` by far, and independent of it. What compares or selects hides a NaN, and a matrix of
    zeros spreads it: a pool, a convolution, a sum and an activation do neither.

    Args:
      fn: A function of one array that gives one array. Functions inside it that were compiled before, with this
        package's fast convolutions, keep them and may show more than they read: give it uncompiled.
      input_shape: Shape of the input.
      spatial_axes: Axes of the input that are the image's.
      unit_axes: Axes of the output along which units are told apart; the others are joined.
      key: Random key of the noise.
    Returns:
      The lines of the input that each unit reads.
    Example:
      >>> def smooth(x):
      ...     return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
      >>> probe(smooth, (1, 5, 7, 1)).interval((0, 3))
      ((0, 1), (2, 4))
    """
    shape = tuple(input_shape)
    noise = jax.random.uniform(jax.random.key(0) if key is None else key, shape, minval=0.5, maxval=1.5)

    def turned(image: jax.Array) -> jax.Array:
        output = jnp.isnan(fn(image))
        return output.any(tuple(axis for axis in range(output.ndim) if axis not in unit_axes))

    marks = []
    for axis in spatial_axes:
        places = np.eye(shape[axis], dtype=bool)
        spread = places.reshape([shape[axis], *(shape[axis] if a == axis else 1 for a in range(len(shape)))])
        marks.append(np.broadcast_to(spread, [shape[axis], *shape]))
    with plain_convolutions():
        images = jnp.where(np.concatenate(marks), jnp.nan, noise[None])
        found = np.moveaxis(np.asarray(compiled(jax.vmap(turned), once=True)(images)), 0, -1)
    return Support(tuple(np.split(found, np.cumsum([shape[axis] for axis in spatial_axes])[:-1], -1)))


def compiled(function: Callable, *, once: bool = False) -> Callable:
    """Compile a function, on a CPU without the fusion that drops NaN and miscomputes some pooled convolutions.

    Args:
      function: The function.
      once: Whether it runs only once.
    """
    if jax.default_backend() != "cpu" or not jax_versions.takes_options(**_NO_FUSION, **_QUICK):
        return jax.jit(function)
    return jax.jit(function, compiler_options=_NO_FUSION | (_QUICK if once else {}))
