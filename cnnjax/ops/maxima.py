"""The maximum of every window on a CPU, and its derivatives as two primitives that are each other's transposes.

`gather(t, x)` takes from t, of the shape of x, what stands where x has each window's maximum; `scatter(g, x)` gives
each window's g back to that place. Both are linear in their first argument and constant in x, so that any order of
differentiation, in either mode, stays among them, and nothing but x is kept for it. Of equal values the first in
reading order is the maximum, and NaN is larger than all.
"""

from functools import partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from cnnjax.jax_versions import on_no_mesh
from cnnjax.ops import windows
from cnnjax.ops.cpu.blocks import noinline, padded
from cnnjax.ops.dispatch import cpu_mode, lower_on_one_cpu

max_pool_gather_p, max_pool_scatter_p = Primitive("cnnjax_max_pool_gather"), Primitive("cnnjax_max_pool_scatter")

_MOST_TAPS = 16  # of larger windows the place of the maximum is dearer than the folds' own derivatives


def max_of_windows(x: jax.Array, *, window, strides, padding, dilation=(1, 1)) -> jax.Array:
    """Take the maximum of every window of images `[N, H, W, C]`, padding counting as smaller than all.

    Example:
      >>> max_of_windows(jnp.arange(6.0).reshape(1, 2, 3, 1), window=(2, 2), strides=(1, 1), padding=((0, 0), (0, 0)))
      Array([[[[4.],
               [5.]]]], dtype=float32)
    """
    # Padded here, once: the derivatives read what the maximum has read.
    x = padded(x, padding, windows.lowest(x.dtype))
    small = prod(window) <= _MOST_TAPS and dilation == (1, 1)
    if small and jnp.issubdtype(x.dtype, jnp.floating) and cpu_mode() != "off" and on_no_mesh(x):
        return _located(x, tuple(window), tuple(strides))
    return windows.max_by_slices(x, window, strides, dilation)


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _located(x, window, strides):
    return windows.max_by_slices(x, window, strides)


@_located.defjvp
def _(window, strides, primals, tangents):
    return _located(*primals, window, strides), max_pool_gather_p.bind(
        *tangents, *primals, window=window, strides=strides
    )


def _places(x, *, window, strides):
    """Return which tap of each window has its maximum, in float32: XLA has no fast loop for bytes beside floats."""
    best, *others = windows.taps(x, window, strides)
    places = jnp.zeros(best.shape, jnp.float32)
    for number, pixel in enumerate(others, start=1):
        stays = windows.stays(best, pixel)
        places = jnp.where(stays, places, jnp.float32(number))
        best = jnp.where(stays, best, pixel)
    return places


def _gather_at(t, places, *, window, strides):
    pixels = enumerate(windows.taps(t, window, strides))
    return sum(jnp.where(places == number, pixel, jnp.zeros((), t.dtype)) for number, pixel in pixels)


def _scatter_at(g, places, *, shape, window, strides):
    zero = jnp.zeros((), g.dtype)
    if any(k > s for k, s in zip(window, strides)):  # windows overlap: a pixel may be the maximum of several
        take = partial(_gather_at, places=places, window=window, strides=strides)
        return jax.linear_transpose(take, jax.ShapeDtypeStruct(shape, g.dtype))(g)[0]
    # Every pixel asks its only window whether it is the one.
    (sh, sw), (batch, rows, columns, channels) = strides, g.shape
    row, column = np.mgrid[:sh, :sw]
    inside = (row < window[0]) & (column < window[1])
    own = np.where(inside, row * window[1] + column, -1).astype(np.float32).reshape(1, 1, sh, 1, sw, 1)
    pixels = jnp.where(places[:, :, None, :, None] == own, g[:, :, None, :, None], zero)
    # What is left of the images beyond the last window, or of its strides beyond the images.
    edges = ((0, 0, 0), (0, shape[1] - rows * sh, 0), (0, shape[2] - columns * sw, 0), (0, 0, 0))
    return lax.pad(pixels.reshape(batch, rows * sh, columns * sw, channels), zero, edges)


def _gather(t, x, *, locate=_places, **geometry):
    return _gather_at(t, locate(x, **geometry), **geometry)


def _scatter(g, x, *, locate=_places, **geometry):
    return _scatter_at(g, locate(x, **geometry), shape=x.shape, **geometry)


def _define(primitive: Primitive, transpose: Primitive, plain, shape) -> None:
    def jvp(primals, tangents, **geometry):
        y, (t, _) = primitive.bind(*primals, **geometry), tangents
        zero = isinstance(t, ad.Zero)
        return y, ad.Zero(jax.typeof(y).to_tangent_aval()) if zero else primitive.bind(t, primals[1], **geometry)

    def transposed(cotangent, _, x, **geometry):
        return transpose.bind(cotangent, x, **geometry), None

    def batch(operands, dims, **geometry):
        """Merge an axis that x is mapped over into the batch; for an x that isn't mapped find its places once."""
        t, x = operands
        if dims[1] is None:
            return jax.vmap(partial(plain, **geometry), dims)(t, x), 0
        x = jnp.moveaxis(x, dims[1], 0)
        size, images = x.shape[:2]
        t = jnp.broadcast_to(t, (size, *t.shape)) if dims[0] is None else jnp.moveaxis(t, dims[0], 0)
        merged = primitive.bind(*(a.reshape(size * images, *a.shape[2:]) for a in (t, x)), **geometry)
        return merged.reshape(size, images, *merged.shape[1:]), 0

    primitive.def_abstract_eval(shape)
    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transposed
    batching.primitive_batchers[primitive] = batch
    # A stage on one CPU: fused into what reads places, XLA would find the maximum anew for each of its pixels.
    lower_on_one_cpu(primitive, partial(plain, locate=noinline(_places)), plain, ("window", "strides"))


def _gather_shape(t, x, **geometry):
    del x
    return ShapedArray(jax.eval_shape(partial(windows.max_by_slices, **geometry), t).shape, t.dtype)


_define(max_pool_gather_p, max_pool_scatter_p, _gather, _gather_shape)
_define(max_pool_scatter_p, max_pool_gather_p, _scatter, lambda g, x, **_: ShapedArray(x.shape, g.dtype))
