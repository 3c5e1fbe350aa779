"""One number a channel, spread over all pixels, and the sum over them: linear functions, each other's transposes.

They are what batch normalisation needs forward and backward. As primitives of their own they stay among themselves
under differentiation, and a CPU, alone and unsharded, sums as `cnnjax.ops.cpu.sums` does.
"""

import math

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from cnnjax.ops.cpu import sums
from cnnjax.ops.dispatch import cpu_mode, on_no_mesh
from cnnjax.ops.lowering import lower_on_one_cpu

sum_p = Primitive("cnnjax_channel_sum")
spread_p = Primitive("cnnjax_spread")


def channel_sum(x: jax.Array) -> jax.Array:
    """Sum over all axes but the last: `[..., C]` to `[C]`.

    Example:
      >>> channel_sum(jnp.ones((2, 3, 4))).tolist()
      [6.0, 6.0, 6.0, 6.0]
    """
    return sum_p.bind(x) if _has_a_fast_sum(x) else _sum(x)


def channel_mean(x: jax.Array) -> jax.Array:
    """Return the mean over all axes but the last: `[..., C]` to `[C]`.

    Example:
      >>> channel_mean(jnp.ones((2, 3, 4))).tolist()
      [1.0, 1.0, 1.0, 1.0]
    """
    return channel_sum(x) / math.prod(x.shape[:-1])


def spread(values: jax.Array, like: jax.Array) -> jax.Array:
    """Repeat `[C]` over all axes of `[..., C]` but the last, to be combined with that array.

    Args:
      values: One number a channel.
      like: The array that they are for.
    Returns:
      The shape of `like`; on a mesh one that broadcasts to it, so that it takes on the sharding of `like`.
    Example:
      >>> spread(jnp.arange(2.0), jnp.zeros((3, 2))).tolist()
      [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
    """
    if _has_a_fast_sum(like):
        return spread_p.bind(values, shape=like.shape)
    return values.reshape((1,) * (like.ndim - 1) + values.shape)


def _has_a_fast_sum(x) -> bool:
    known = all(isinstance(size, int) and size > 0 for size in x.shape)
    return cpu_mode() != "off" and known and x.ndim > 1 and on_no_mesh(x)


def _sum(x):
    return jnp.sum(x, tuple(range(x.ndim - 1)))


def _spread(values, *, shape):
    return jnp.broadcast_to(values, shape)


@jax.jit
def _compiled_sum(x):
    return sum_p.bind(x)


def _eager_sum(x):
    # Without jit, for someone who debugs, there is no lowering that could choose.
    without_jit = jax.config.jax_disable_jit  # pyright: ignore[reportAttributeAccessIssue]
    return (_sum if without_jit else _compiled_sum)(x)


def _batch_sum(operands, dims):
    x = jnp.moveaxis(operands[0], dims[0], 0)
    return jnp.sum(x, tuple(range(1, x.ndim - 1))), 0


def _batch_spread(operands, dims, *, shape):
    values = jnp.moveaxis(operands[0], dims[0], 0)
    size, channels = values.shape
    return jnp.broadcast_to(values.reshape(size, *(1,) * (len(shape) - 1), channels), (size, *shape)), 0


sum_p.def_impl(_eager_sum)
sum_p.def_abstract_eval(lambda x: ShapedArray(x.shape[-1:], x.dtype))
ad.deflinear2(sum_p, lambda cotangent, x: [spread_p.bind(cotangent, shape=x.aval.shape)])
batching.primitive_batchers[sum_p] = _batch_sum
lower_on_one_cpu(sum_p, sums.over_pixels, _sum)

spread_p.def_impl(_spread)
spread_p.def_abstract_eval(lambda values, *, shape: ShapedArray(shape, values.dtype))
ad.deflinear2(spread_p, lambda cotangent, values, *, shape: [sum_p.bind(cotangent)])
batching.primitive_batchers[spread_p] = _batch_spread
mlir.register_lowering(spread_p, mlir.lower_fun(_spread, multiple_results=False))
