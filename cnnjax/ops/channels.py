"""What batch normalisation and biases do with one number a channel, and its transposes.

`scale` and `spread` take a number a channel to all pixels, `channel_dot` and `channel_sum` take all pixels to one: as
primitives of their own they stay among themselves under differentiation, in any order and mode, and a CPU, alone and
unsharded, sums as `cnnjax.ops.cpu.sums` does. What meets in one has one float dtype.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from cnnjax.ops.cpu import sums
from cnnjax.ops.dispatch import cpu_mode, on_no_mesh
from cnnjax.ops.lowering import lower_on_one_cpu

sum_p, dot_p = Primitive("cnnjax_channel_sum"), Primitive("cnnjax_channel_dot")
spread_p, scale_p = Primitive("cnnjax_channel_spread"), Primitive("cnnjax_channel_scale")


def channel_sum(x: jax.Array) -> jax.Array:
    """Sum over all axes but the last: `[..., C]` to `[C]`.

    Example:
      >>> channel_sum(jnp.ones((2, 3, 4))).tolist()
      [6.0, 6.0, 6.0, 6.0]
    """
    return sum_p.bind(x) if _is_ours(x) else _sum(x)


def channel_dot(x: jax.Array, y: jax.Array) -> jax.Array:
    """Sum a product over all axes but the last: two `[..., C]` to `[C]`.

    Example:
      >>> channel_dot(jnp.full((2, 3), 2.0), jnp.arange(6.0).reshape(2, 3)).tolist()
      [6.0, 10.0, 14.0]
    """
    return dot_p.bind(x, y) if _is_ours(x) else _dot(x, y)


def channel_means(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the means of x and of its square over all axes but the last: `[..., C]` to two `[C]`.

    Example:
      >>> [mean.tolist() for mean in channel_means(jnp.full((2, 3, 2), 3.0))]
      [[3.0, 3.0], [9.0, 9.0]]
    """
    count = math.prod(x.shape[:-1])
    return channel_sum(x) / count, channel_dot(x, x) / count


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
    return spread_p.bind(values, shape=like.shape) if _is_ours(like) else _aligned(values, like.ndim)


def scale(x: jax.Array, values: jax.Array) -> jax.Array:
    """Multiply every channel of `[..., C]` by a number of its own, `[C]`.

    Example:
      >>> scale(jnp.ones((2, 2)), jnp.arange(2.0)).tolist()
      [[0.0, 1.0], [0.0, 1.0]]
    """
    return scale_p.bind(x, values) if _is_ours(x) else _scale(x, values)


def _is_ours(x) -> bool:
    known = all(isinstance(size, int) and size > 0 for size in x.shape)
    return cpu_mode() != "off" and known and x.ndim > 1 and on_no_mesh(x)


def _aligned(values, ndim: int):
    return values.reshape((1,) * (ndim - 1) + values.shape)


def _sum(x):
    return jnp.sum(x, tuple(range(x.ndim - 1)))


def _dot(x, y):
    return _sum(x * y)


def _spread(values, *, shape):
    return jnp.broadcast_to(values, shape)


def _scale(x, values):
    return x * _aligned(values, x.ndim)


def _define(primitive: Primitive, plain: Callable, fast: Callable, shape: Callable) -> None:
    """Give a primitive its meaning, `plain`, how one CPU computes it, `fast`, and the shape of its result."""

    def batch(operands, dims, **parameters):
        return jax.vmap(partial(plain, **parameters), dims)(*operands), 0

    primitive.def_abstract_eval(lambda x, *others, **parameters: ShapedArray(shape(x, **parameters), x.dtype))
    batching.primitive_batchers[primitive] = batch
    lower_on_one_cpu(primitive, fast, plain, ("shape",))


_define(sum_p, _sum, sums.over_pixels, lambda x: x.shape[-1:])
_define(dot_p, _dot, sums.over_pixels, lambda x: x.shape[-1:])
_define(spread_p, _spread, _spread, lambda values, shape: shape)
_define(scale_p, _scale, _scale, lambda x: x.shape)
ad.deflinear2(sum_p, lambda cotangent, x: [spread_p.bind(cotangent, shape=x.aval.shape)])
ad.deflinear2(spread_p, lambda cotangent, values, *, shape: [sum_p.bind(cotangent)])
ad.defbilinear(scale_p, lambda ct, x, values: scale_p.bind(ct, values), lambda ct, x, values: dot_p.bind(x, ct))
ad.defbilinear(dot_p, lambda ct, x, y: scale_p.bind(y, ct), lambda ct, x, y: scale_p.bind(x, ct))
