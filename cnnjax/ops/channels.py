"""What batch normalisation and biases do with one number a channel, and its transposes.

`scale` and `broadcast_channels` take a number a channel to all pixels, `channel_dot` and `channel_sum` all pixels to
one: as primitives of their own they stay among themselves under differentiation, in any order and mode, and a CPU,
alone and unsharded, sums as `cnnjax.ops.cpu.sums` does. What meets in one has one float dtype. A centre, one number
a channel, is taken from the pixels of x first; it is a constant to every derivative.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from cnnjax.jax_versions import on_no_mesh
from cnnjax.ops.cpu import sums
from cnnjax.ops.dispatch import cpu_mode, lower_on_one_cpu

sum_p, dot_p = Primitive("cnnjax_channel_sum"), Primitive("cnnjax_channel_dot")
square_p = Primitive("cnnjax_channel_square")
broadcast_p, scale_p = Primitive("cnnjax_channel_broadcast"), Primitive("cnnjax_channel_scale")


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


def channel_moments(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return a centre, the mean less it and the variance over all axes but the last: `[..., C]` to three `[C]`.

    `E[x^2] - E[x]^2` loses all digits where the mean is large beside the deviation. From a centre near the mean it does
    not: here the mean of one row of every image. Of n pixels among N it lies within `sqrt(N / n)` deviations of the
    mean, so the variance's relative error is at most about `N / n` roundings, whatever the pixels are. The derivatives
    are those of the variance, since no centre changes that.

    Example:
      >>> [moment.tolist() for moment in channel_moments(jnp.asarray([[4096.0], [4098.0]]))]
      [[4097.0], [0.0], [1.0]]
    """
    row = x[:, x.shape[1] // 2] if x.ndim > 2 else x
    centre = jax.lax.stop_gradient(jnp.mean(row, tuple(range(row.ndim - 1))))
    count = math.prod(x.shape[:-1])
    if _is_ours(x):
        shift, square = sum_p.bind(x, centre) / count, square_p.bind(x, centre) / count
    else:
        shift, square = _sum(x, centre) / count, _square(x, centre) / count
    return centre, shift, jnp.maximum(square - shift * shift, 0)  # rounding can make the difference negative


def broadcast_channels(values: jax.Array, like: jax.Array) -> jax.Array:
    """Repeat `[C]` over all axes of `[..., C]` but the last, to be combined with that array.

    Args:
      values: One number a channel.
      like: The array that they are for.
    Returns:
      The shape of `like`; on a mesh one that broadcasts to it, so that it takes on the sharding of `like`.
    Example:
      >>> broadcast_channels(jnp.arange(2.0), jnp.zeros((3, 2))).tolist()
      [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
    """
    return broadcast_p.bind(values, shape=like.shape) if _is_ours(like) else _aligned(values, like.ndim)


def scale(x: jax.Array, values: jax.Array, centre: jax.Array | None = None) -> jax.Array:
    """Multiply every channel of `[..., C]`, less its centre, by a number of its own, `[C]`.

    Example:
      >>> scale(jnp.ones((2, 2)), jnp.arange(2.0)).tolist()
      [[0.0, 1.0], [0.0, 1.0]]
    """
    centres = () if centre is None else (centre,)
    return scale_p.bind(x, values, *centres) if _is_ours(x) else _scale(x, values, *centres)


def _is_ours(x) -> bool:
    known = all(isinstance(size, int) and size > 0 for size in x.shape)
    return cpu_mode() != "off" and known and x.ndim > 1 and on_no_mesh(x)


def _aligned(values, ndim: int):
    return values.reshape((1,) * (ndim - 1) + values.shape)


def _from_centre(x, centre=None):
    return x if centre is None else x - _aligned(centre, x.ndim)


def _sum(x, centre=None):
    return jnp.sum(_from_centre(x, centre), tuple(range(x.ndim - 1)))


def _dot(x, y, centre=None):
    return _sum(_from_centre(x, centre) * y)


def _square(x, centre):
    return _sum(jnp.square(_from_centre(x, centre)))


def _broadcast(values, *, shape):
    return jnp.broadcast_to(values, shape)


def _scale(x, values, centre=None):
    return _from_centre(x, centre) * _aligned(values, x.ndim)


def _define(primitive: Primitive, plain: Callable, fast: Callable, shape: Callable) -> None:
    """Give a primitive its meaning, `plain`, how one CPU computes it, `fast`, and the shape of its result."""

    def batch(operands, dims, **parameters):
        return jax.vmap(partial(plain, **parameters), dims)(*operands), 0

    primitive.def_abstract_eval(lambda x, *others, **parameters: ShapedArray(shape(x, **parameters), x.dtype))
    batching.primitive_batchers[primitive] = batch
    lower_on_one_cpu(primitive, fast, plain, ("shape",))


def _product_jvp(primitive, primals, tangents):
    """Differentiate what multiplies x, less its centre, by another array."""
    (x, other, *centre), (x_tangent, other_tangent, *_) = primals, tangents
    y = primitive.bind(*primals)
    tangent = ad.Zero(jax.typeof(y).to_tangent_aval())
    if not isinstance(x_tangent, ad.Zero):
        tangent = primitive.bind(x_tangent, other)
    if not isinstance(other_tangent, ad.Zero):
        tangent = ad.add_tangents(tangent, primitive.bind(x, other_tangent, *centre))
    return y, tangent


def _sum_jvp(to_tangent, primitive, primals, tangents):
    """Differentiate a sum over x, less its centre."""
    y, tangent = primitive.bind(*primals), tangents[0]
    if isinstance(tangent, ad.Zero):
        return y, ad.Zero(jax.typeof(y).to_tangent_aval())
    return y, to_tangent(tangent, *primals)


def _scale_transpose(cotangent, x, values, *centre):
    if ad.is_undefined_primal(x):
        return scale_p.bind(cotangent, values), None
    return None, dot_p.bind(x, cotangent, *centre), *[None] * len(centre)


def _dot_transpose(cotangent, x, y, *centre):
    if ad.is_undefined_primal(x):
        return scale_p.bind(y, cotangent), None
    return None, scale_p.bind(x, cotangent, *centre), *[None] * len(centre)


_define(sum_p, _sum, lambda x, centre=None: sums.over_pixels(x, centre=centre), lambda x: x.shape[-1:])
_define(dot_p, _dot, lambda x, y, centre=None: sums.over_pixels(x, y, centre=centre), lambda x: x.shape[-1:])
_define(square_p, _square, lambda x, centre: sums.over_pixels(x, centre=centre, power=2), lambda x: x.shape[-1:])
_define(broadcast_p, _broadcast, _broadcast, lambda values, shape: shape)
_define(scale_p, _scale, _scale, lambda x: x.shape)
ad.primitive_jvps[sum_p] = partial(_sum_jvp, lambda tangent, *_: sum_p.bind(tangent), sum_p)
ad.primitive_jvps[square_p] = partial(_sum_jvp, lambda t, x, centre: dot_p.bind(x, 2 * t, centre), square_p)
ad.primitive_jvps[scale_p], ad.primitive_jvps[dot_p] = partial(_product_jvp, scale_p), partial(_product_jvp, dot_p)
ad.primitive_transposes[sum_p] = lambda cotangent, x: [broadcast_p.bind(cotangent, shape=x.aval.shape)]
ad.primitive_transposes[scale_p], ad.primitive_transposes[dot_p] = _scale_transpose, _dot_transpose
ad.deflinear2(broadcast_p, lambda cotangent, values, *, shape: [sum_p.bind(cotangent)])
