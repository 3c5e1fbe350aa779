"""Stages: pieces of an algorithm that XLA compiles each on its own."""

from collections.abc import Callable
from functools import partial

import jax
from jax.experimental.xla_metadata import set_xla_metadata


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
