"""Convolution as one bilinear primitive with three roles, closed under differentiation.

`forward(x, kernel)`, `input_grad(g, kernel)` and `kernel_grad(x, g)` are the convolution and its two transposes; the
transposes of each are the other two, so any order of differentiation, in either mode, stays among them. Every platform
lowers them to its own convolution; a CPU, alone and unsharded, to what `cnnjax.ops.cpu` chooses.
"""

import operator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from cnnjax import shapes
from cnnjax.jax_versions import on_no_mesh
from cnnjax.ops import cpu
from cnnjax.ops.dispatch import cpu_mode, lower_on_one_cpu
from cnnjax.ops.xla_faults import hide_constant, platform_conv

conv_p = Primitive("cnnjax_conv")

_DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)
_NHWC = lax.ConvDimensionNumbers(lhs_spec=(0, 3, 1, 2), rhs_spec=(3, 2, 0, 1), out_spec=(0, 3, 1, 2))


def cpu_conv_spec(
    lhs,
    rhs,
    window_strides,
    padding,
    *,
    lhs_dilation: Any,
    rhs_dilation: Any,
    dimension_numbers: Any,
    feature_group_count: Any,
    batch_group_count: Any,
    preferred_element_type: Any,
    out_sharding: Any,
) -> cpu.ConvSpec | None:
    """Return the convolution as a spec if a CPU has an algorithm of its own for any of its roles, else None."""
    mode = cpu_mode()
    plain = (
        mode != "off"
        and _plain(lhs, rhs)
        and isinstance(feature_group_count, int)
        and feature_group_count >= 1
        and batch_group_count == 1
        and (lhs_dilation is None or all(d == 1 for d in lhs_dilation))
        and (preferred_element_type is None or preferred_element_type == lhs.dtype)
        and out_sharding is None
        and _is_nhwc(lhs, rhs, dimension_numbers)
        and lhs.shape[3] == rhs.shape[2] * feature_group_count
        and rhs.shape[3] % feature_group_count == 0
    )
    if not plain:
        return None
    try:
        strides = _two(window_strides)
        dilation = (1, 1) if rhs_dilation is None else _two(rhs_dilation)
        sides = (padding, padding) if isinstance(padding, str) else [_two(side) for side in padding]
        if len(sides) != 2 or min(strides + dilation) < 1:
            return None
        pads = [
            shapes.window_padding(n, k, s, p, d)
            for n, k, s, p, d in zip(lhs.shape[1:3], rhs.shape[:2], strides, sides, dilation)
        ]
    except (TypeError, ValueError):  # whatever is wrong with it, jax.lax says in its own words
        return None
    window = strides, (pads[0], pads[1]), dilation, feature_group_count
    return _if_fast(cpu.ConvSpec(lhs.shape, rhs.shape, *window, exact=mode == "exact"))


def cpu_transposed_conv_spec(x, kernel, strides, padding, dilation) -> cpu.ConvSpec | None:
    """Return the convolution that is transposed by one of dilated images as a spec, as `cpu_conv_spec` does.

    Args:
      x: The images, `[N, H, W, C]`.
      kernel: The kernel that runs over them, `[KH, KW, C, O]`.
      strides: The images' dilation.
      padding: Pairs around the dilated images.
      dilation: The kernel's.
    """
    mode = cpu_mode()
    if mode == "off" or not _plain(x, kernel):
        return None
    sizes, own = [], []
    for n, k, stride, step, (low, high) in zip(x.shape[1:3], kernel.shape[:2], strides, dilation, padding):
        reach, apart = (k - 1) * step, (n - 1) * stride + 1
        size = apart + low + high - reach
        sizes.append(size)
        own.append((reach - low, apart + low - size))
    if min(sizes) < 1:
        return None
    kernel_shape = (*kernel.shape[:2], kernel.shape[3], kernel.shape[2])
    input_shape = (x.shape[0], *sizes, kernel.shape[3])
    window = tuple(strides), (own[0], own[1]), tuple(dilation)
    return _if_fast(cpu.ConvSpec(input_shape, kernel_shape, *window, exact=mode == "exact"))


def cpu_dilated_conv_spec(lhs, rhs, window_strides, padding, *, lhs_dilation: Any, rhs_dilation: Any, **options: Any):
    """Return what `cpu_transposed_conv_spec` does for the arguments of `jax.lax.conv_general_dilated`."""
    try:
        strides, dilation = _two(lhs_dilation), (1, 1) if rhs_dilation is None else _two(rhs_dilation)
        pairs = [_two(side) for side in padding]
        apart = max(strides) > 1 and min(strides + dilation) >= 1
        fits = _two(window_strides) == (1, 1) and apart and len(pairs) == 2
    except (TypeError, ValueError):  # a word for padding, or what jax.lax says in its own words
        return None
    # As a convolution it is plain if it is so without the images' dilation and the padding.
    undilated = cpu_conv_spec(lhs, rhs, (1, 1), "SAME", lhs_dilation=None, rhs_dilation=None, **options)
    if not fits or undilated is None or undilated.groups > 1:
        return None
    return cpu_transposed_conv_spec(lhs, rhs, strides, pairs, dilation)


def _if_fast(spec: cpu.ConvSpec) -> cpu.ConvSpec | None:
    return spec if any(cpu.choose(role, spec) for role in cpu.ROLES) else None


def _two(numbers) -> tuple[int, int]:
    first, second = (operator.index(number) for number in numbers)
    return first, second


def _plain(lhs, rhs) -> bool:
    """Say whether both are images and kernels of at most 32 bits and of known sizes, on no mesh."""
    arrays = all(
        isinstance(array, jax.Array | np.ndarray)
        and array.ndim == 4
        and array.dtype in _DTYPES
        and all(isinstance(size, int) and size > 0 for size in array.shape)
        and on_no_mesh(array)
        for array in (lhs, rhs)
    )
    return arrays and lhs.dtype == rhs.dtype


def _is_nhwc(lhs, rhs, dimension_numbers) -> bool:
    try:
        return lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers) == _NHWC
    except (TypeError, ValueError):
        return False


def convolve(x, kernel, spec: cpu.ConvSpec, precision: Any) -> jax.Array:
    """Convolve through the primitive."""
    if precision is not None:
        # A CPU's own algorithms have no use for it; JAX says in its own words what is no precision.
        one = jax.ShapeDtypeStruct((1, 1, 1), x.dtype)
        jax.eval_shape(partial(lax.conv, window_strides=(1,), padding="VALID", precision=precision), one, one)
        precision = tuple(precision) if isinstance(precision, list) else precision
    return conv_p.bind(x, kernel, role="forward", spec=spec, precision=precision)


def convolve_transposed(x, kernel, spec: cpu.ConvSpec) -> jax.Array:
    """Convolve dilated images through the primitive, as the transpose of the convolution with the turned kernel."""
    turned = hide_constant(lax.transpose(lax.rev(kernel, (0, 1)), (0, 1, 3, 2)))
    return conv_p.bind(x, turned, role="input_grad", spec=spec, precision=None)


def _platform(a, b, *, role, spec, precision):
    """Do what the role asks with the platform's own convolution."""
    options = {"rhs_dilation": spec.dilation, "precision": precision, "feature_group_count": spec.groups}
    if role == "input_grad":
        layout = ("NHWC", "HWOI", "NHWC")
        turned = lax.rev(b if spec.groups == 1 else _channels_outermost(b, spec.groups), (0, 1))
        return platform_conv(
            a, turned, (1, 1), spec.input_grad_padding, spec.strides, dimension_numbers=layout, **options
        )

    def conv(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return platform_conv(x, kernel, spec.strides, spec.padding, dimension_numbers=layout, **options)

    if role == "forward":
        return conv(a, b)
    return jax.linear_transpose(lambda kernel: conv(a, kernel), jax.ShapeDtypeStruct(spec.kernel_shape, a.dtype))(b)[0]


def _channels_outermost(kernel, groups: int):
    """Return a kernel `[KH, KW, C / groups, O]` as `[KH, KW, C, O / groups]`, as `jax.lax` does for its transpose."""
    kh, kw, channels, features = kernel.shape
    split = kernel.reshape(kh, kw, channels, groups, features // groups).transpose(0, 1, 3, 2, 4)
    return split.reshape(kh, kw, groups * channels, features // groups)


def _on_cpu(a, b, *, role, spec, precision):
    algorithm = cpu.choose(role, spec)
    # A CPU multiplies in float32 in any case; in half precision XLA takes its slowest loops for some of this.
    wide = (a.astype(jnp.float32), b.astype(jnp.float32))
    if algorithm is None:
        return _platform(*wide, role=role, spec=spec, precision=precision).astype(a.dtype)
    return algorithm(*wide, spec).astype(a.dtype)


def _abstract(a, b, *, role, spec, precision):
    del b, precision
    return ShapedArray(spec.shape(role), a.dtype)


def _transpose_first(cotangent, _, b, *, role, spec, precision):
    """Return the cotangent of x, of g or of x."""
    bind = partial(conv_p.bind, spec=spec, precision=precision)
    if role == "input_grad":
        return bind(cotangent, b, role="forward")
    return bind(cotangent, b, role="input_grad") if role == "forward" else bind(b, cotangent, role="input_grad")


def _transpose_second(cotangent, a, _, *, role, spec, precision):
    """Return the cotangent of the kernel, of the kernel or of g."""
    bind = partial(conv_p.bind, spec=spec, precision=precision)
    if role == "forward":
        return bind(a, cotangent, role="kernel_grad")
    return bind(cotangent, a, role="kernel_grad") if role == "input_grad" else bind(a, cotangent, role="forward")


def _batch(operands, dims, *, role, spec, precision):
    """Merge a mapped axis into the batch where only that one is mapped; otherwise map the platform's convolution."""
    (a, b), (a_dim, b_dim) = operands, dims
    if role == "kernel_grad" or b_dim is not None:
        mapped = jax.vmap(partial(_platform, role=role, spec=spec, precision=precision), (a_dim, b_dim))
        return mapped(a, b), 0
    a = jnp.moveaxis(a, a_dim, 0)
    size, batch = a.shape[:2]
    merged = replace(spec, input_shape=(size * batch, *spec.input_shape[1:]))
    y = conv_p.bind(a.reshape(size * batch, *a.shape[2:]), b, role=role, spec=merged, precision=precision)
    return y.reshape(size, batch, *y.shape[1:]), 0


conv_p.def_abstract_eval(_abstract)
ad.defbilinear(conv_p, _transpose_first, _transpose_second)
batching.primitive_batchers[conv_p] = _batch
static = ("role", "spec", "precision")
lower_on_one_cpu(conv_p, _on_cpu, _platform, static, macs=lambda params: params["spec"].macs)
