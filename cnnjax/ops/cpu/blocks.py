"""Pieces of an algorithm: stages that XLA compiles each on its own, and blocks of images that stay in the cache."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from cnnjax.ops.cpu.spec import Pair


def noinline(f: Callable) -> Callable:
    """Make a function of arrays and static keyword arguments a call that XLA leaves a call.

    XLA inlines calls and fuses what it finds, and a transform fused into the next one repeats its sums for every
    reader; a call left alone is a barrier. Equal stages of one program, whichever convolution they belong to, compile
    once.

    Example:
      >>> noinline(lambda x, *, by: x * by)(3.0, by=2).item()
      6.0
    """

    def call(*arrays, **static):
        with set_xla_metadata(inlineable="false"):
            return _call(*arrays, f=f, static=tuple(sorted(static.items())))

    return call


@partial(jax.jit, static_argnames=("f", "static"))
def _call(*arrays, f, static):
    # Within it all is as ever: jnp.where is a call too, and one that isn't inlined is fused with nothing.
    with set_xla_metadata(inlineable=None):
        return f(*arrays, **dict(static))


def divisor(batch: int, most: int) -> int:
    """Return the largest divisor of the batch that is at most `most`, and 1 at the least.

    Example:
      >>> divisor(96, 40)
      32
    """
    return next(size for size in range(min(batch, max(most, 1)), 0, -1) if batch % size == 0)


def padded(x, padding: Sequence[Pair], value: float = 0):
    """Return images `[N, H, W, C]` with pixels of one value around them, or cut where the padding is negative."""
    edges = ((0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0))
    return lax.pad(x, jnp.array(value, x.dtype), edges) if any(map(any, padding)) else x


def tall_product(a, b):
    """Return `a.T @ b` of two matrices of many rows.

    Example:
      >>> tall_product(jnp.ones((9, 2)), jnp.ones((9, 3))).tolist()
      [[9.0, 9.0, 9.0], [9.0, 9.0, 9.0]]
    """
    # The narrower one first: up to four times as fast (6,272 rows of 192 and 16). A stage, or XLA would turn it round.
    if a.shape[1] > b.shape[1]:
        return noinline(_tall_product)(b, a).T
    return noinline(_tall_product)(a, b)


def _tall_product(a, b):
    if _worth_halving(a.shape[0], a.shape[1], b.shape[1]):
        a, b = (matrix.reshape(2, -1, matrix.shape[1]) for matrix in (a, b))
        first, second = lax.dot_general(a, b, (((1,), (1,)), ((0,), (0,))))
        return first + second
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())))


def _worth_halving(rows: int, narrow: int, wide: int) -> bool:
    # Measured: two halves and a sum are up to 1.4 times as fast; with fewer rows or columns they gain nothing.
    return rows % 2 == 0 and rows >= max(4096, 16 * wide) and narrow >= 64


def pick(array, i, size: int):
    """Return block i of an array cut into blocks of `size` images, or all of it for None; to be called in a stage.

    Cut outside of one, the array would be written once more and its producers computed again.
    """
    return array if i is None else lax.dynamic_slice_in_dim(array, i * size, size)


@noinline
def part(array, i, *, size: int):
    """Return the same as a stage of its own: a slice fused into what reads it in pieces takes several times as long."""
    return pick(array, i, size)


def stacked(f: Callable, batch: int, size: int):
    """Return `f(i)` of every block i of `size` images, one after the other; f(None) gives all of them."""
    count = batch // size
    if count == 1:
        return f(None)
    y = lax.map(f, jnp.arange(count))
    return y.reshape(-1, *y.shape[2:])


def summed(f: Callable, batch: int, size: int):
    """Return the sum of `f(i)` over the blocks i, called as in `stacked`."""
    count = batch // size
    if count == 1:
        return f(None)
    y = jax.eval_shape(f, 0)
    return lax.fori_loop(0, count, lambda i, sums: sums + f(i), jnp.zeros(y.shape, y.dtype))
