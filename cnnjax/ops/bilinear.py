"""Convolution as one bilinear primitive with three roles, closed under differentiation.

`out(x, kernel)`, `lhs(g, kernel)` and `rhs(x, g)` are the convolution and its two transposes; the transposes of each
are the other two, so any order of differentiation, in either mode, stays among them. Every platform lowers them to its
own convolution; a CPU, alone and unsharded, to what `cnnjax.ops.cpu` chooses.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from cnnjax.ops import cpu
from cnnjax.ops.lowering import lower_on_one_cpu
from cnnjax.ops.platform import platform_conv

conv_p = Primitive("cnnjax_conv")


def convolve(x, kernel, problem: cpu.ConvSpec, precision: Any) -> jax.Array:
    """Convolve through the primitive."""
    if precision is not None:
        # A CPU's own algorithms have no use for it; JAX says in its own words what is no precision.
        one = jax.ShapeDtypeStruct((1, 1, 1), x.dtype)
        jax.eval_shape(partial(lax.conv, window_strides=(1,), padding="VALID", precision=precision), one, one)
        precision = tuple(precision) if isinstance(precision, list) else precision
    return conv_p.bind(x, kernel, role="out", problem=problem, precision=precision)


def convolve_transposed(g, kernel, problem: cpu.ConvSpec) -> jax.Array:
    """Do the transpose of a convolution through the primitive."""
    return conv_p.bind(g, kernel, role="lhs", problem=problem, precision=None)


def _platform(a, b, *, role, problem, precision):
    """Do what the role asks with the platform's own convolution."""
    options = {"rhs_dilation": problem.dilation, "precision": precision}
    if role == "lhs":
        layout = ("NHWC", "HWOI", "NHWC")
        turned = lax.rev(b, (0, 1))
        return platform_conv(
            a, turned, (1, 1), problem.lhs_padding, problem.strides, dimension_numbers=layout, **options
        )

    def conv(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return platform_conv(x, kernel, problem.strides, problem.padding, dimension_numbers=layout, **options)

    if role == "out":
        return conv(a, b)
    return jax.linear_transpose(lambda kernel: conv(a, kernel), jax.ShapeDtypeStruct(problem.rhs_shape, a.dtype))(b)[0]


def _on_cpu(a, b, *, role, problem, precision):
    algorithm = cpu.choose(role, problem)
    # A CPU multiplies in float32 in any case; in half precision XLA takes its slowest loops for some of this.
    wide = (a.astype(jnp.float32), b.astype(jnp.float32))
    if algorithm is None:
        return _platform(*wide, role=role, problem=problem, precision=precision).astype(a.dtype)
    return algorithm(*wide, problem).astype(a.dtype)


def _abstract(a, b, *, role, problem, precision):
    del b, precision
    return ShapedArray(problem.shape(role), a.dtype)


def _transpose_first(cotangent, _, b, *, role, problem, precision):
    """Return the cotangent of x, of g or of x."""
    bind = partial(conv_p.bind, problem=problem, precision=precision)
    if role == "lhs":
        return bind(cotangent, b, role="out")
    return bind(cotangent, b, role="lhs") if role == "out" else bind(b, cotangent, role="lhs")


def _transpose_second(cotangent, a, _, *, role, problem, precision):
    """Return the cotangent of the kernel, of the kernel or of g."""
    bind = partial(conv_p.bind, problem=problem, precision=precision)
    if role == "out":
        return bind(a, cotangent, role="rhs")
    return bind(cotangent, a, role="rhs") if role == "lhs" else bind(a, cotangent, role="out")


def _batch(operands, dims, *, role, problem, precision):
    """Merge a mapped axis into the batch where only that one is mapped; otherwise map the platform's convolution."""
    (a, b), (a_dim, b_dim) = operands, dims
    if role == "rhs" or b_dim is not None:
        mapped = jax.vmap(partial(_platform, role=role, problem=problem, precision=precision), (a_dim, b_dim))
        return mapped(a, b), 0
    a = jnp.moveaxis(a, a_dim, 0)
    size, batch = a.shape[:2]
    merged = replace(problem, lhs_shape=(size * batch, *problem.lhs_shape[1:]))
    y = conv_p.bind(a.reshape(size * batch, *a.shape[2:]), b, role=role, problem=merged, precision=precision)
    return y.reshape(size, batch, *y.shape[1:]), 0


conv_p.def_abstract_eval(_abstract)
ad.defbilinear(conv_p, _transpose_first, _transpose_second)
batching.primitive_batchers[conv_p] = _batch
static = ("role", "problem", "precision")
lower_on_one_cpu(conv_p, _on_cpu, _platform, static, macs=lambda params: params["problem"].macs)
