"""Faults of XLA that our convolutions go around: garbage from constant kernels, and shapes that abort the process.

XLA for the CPU must not know a kernel to be one repeated number. Its YNNPACK fusion, on by default, computes garbage
without an error where a reduction follows a convolution or a matrix product whose second operand is one broadcast
number (jaxlib 0.10.2): a constant kernel before a mean, a maximum or a batch norm. `hide_constant` is the identity
everywhere; on a CPU it hides such a number behind a write that the compiler can't see through. Anything else goes
through untouched, at no cost.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters import ad, batching, mlir

from cnnjax import jaxpr

hide_constant_p = Primitive("cnnjax_hide_constant")
_replica_p = Primitive("cnnjax_replica")

# Operations that move numbers about: which operands the numbers come from, where that isn't all of them.
_SOURCES = {
    "stablehlo.dynamic_gather": slice(0, 1),
    "stablehlo.dynamic_slice": slice(0, 1),
    "stablehlo.gather": slice(0, 1),
    "stablehlo.select": slice(1, 3),
}
# Results that are no broadcast in the compiled program, whatever their operands are.
_COMPUTED = ("stablehlo.convolution", "stablehlo.dot_general", "stablehlo.iota", "stablehlo.rng", "stablehlo.reduce")
_LONGEST_SEARCH = 500


def hide_constant(x: Any) -> Any:
    """Return x, on a CPU such that the compiler can't know it to be one repeated number.

    Args:
      x: The kernel of a convolution.
    Returns:
      x; what is no array of floats, as it is.
    Example:
      >>> hide_constant(jnp.ones((2, 2))).tolist()
      [[1.0, 1.0], [1.0, 1.0]]
    """
    floats = isinstance(x, jax.Array | np.ndarray) and jnp.issubdtype(x.dtype, jnp.floating)
    return hide_constant_p.bind(x) if floats else x


def may_be_one_number(value: Any) -> bool:
    """Say whether a value of a module that is being lowered may be known to be one number, repeated.

    An argument of the whole program isn't; an inner function's may be, since nobody knows yet who calls it, and its
    result is where its arguments are. When the search takes too long the answer is yes, which only costs time.
    """
    seen: dict[Any, bool] = {}

    def search(value) -> bool:
        if value not in seen:
            seen[value] = True  # what a search comes back to adds nothing
            seen[value] = len(seen) > _LONGEST_SEARCH or _look(value, search)
        return seen[value]

    return search(value)


def _look(value, search) -> bool:
    if isinstance(value.type, ir.RankedTensorType) and not value.type.shape:
        return True
    if isinstance(value.owner, ir.Block):
        return _look_at_argument(ir.BlockArgument(value), search)
    operation = value.owner.operation
    name, operands = operation.name, list(operation.operands)
    if name == "stablehlo.constant":
        return _is_one_number(operation.attributes["value"])
    if name.startswith(_COMPUTED):
        return False
    if len(operands) == len(operation.results) > 1:  # loops and barriers carry their operands
        return search(operands[ir.OpResult(value).result_number])
    sources = operands[_SOURCES.get(name, slice(None))]
    return (any if name == "stablehlo.select" else all)(search(source) for source in sources)


def _look_at_argument(argument, search) -> bool:
    parent = argument.owner.owner
    operation = parent.operation if hasattr(parent, "operation") else parent
    if operation.name == "func.func":
        return ir.StringAttr(operation.attributes["sym_name"]).value != "main"
    operands = list(operation.operands)
    return argument.arg_number >= len(operands) or search(operands[argument.arg_number])


def _is_one_number(attribute) -> bool:
    try:
        elements = ir.DenseElementsAttr(attribute)
        numbers = [] if elements.is_splat else np.asarray(elements).reshape(-1)
    except (TypeError, ValueError):  # kept elsewhere, or of a type that NumPy lacks
        return True
    if len(numbers) < 2:
        return True
    return bool(numbers[0] == numbers[-1] == numbers[len(numbers) // 2] and (numbers == numbers[0]).all())


def _hide(x):
    # Which copy of the program runs is always the first, but only known when it runs. On an axis of size 1 the place
    # would be known too.
    place, longest = lax.convert_element_type(_replica_p.bind(), jnp.int32), int(np.argmax(x.shape))
    places = [place if axis == longest else jnp.zeros_like(place) for axis in range(x.ndim)]
    return lax.dynamic_update_slice(x, lax.slice(x, (0,) * x.ndim, (1,) * x.ndim), places)


def _lower(context, x):
    (aval,) = context.avals_in
    on_cpu = "cpu" in context.module_context.platforms
    known = all(isinstance(size, int) for size in aval.shape) and aval.size > 1
    if not (on_cpu and known and may_be_one_number(x)):
        return [x]
    return mlir.lower_fun(_hide, multiple_results=False)(context, x)


hide_constant_p.def_impl(lambda x: x)
jaxpr.define(hide_constant_p, lambda x: x)
hide_constant_p.def_abstract_eval(lambda x: x)
ad.deflinear(hide_constant_p, lambda cotangent: [hide_constant_p.bind(cotangent)])
batching.primitive_batchers[hide_constant_p] = lambda operands, dims: (hide_constant_p.bind(operands[0]), dims[0])
# Not cacheable: a cached rule sees arguments of its own in place of the values. One rule for every platform: JAX (0.10)
# can't lower for several at once what has more than one such rule.
mlir.register_lowering(hide_constant_p, _lower, cacheable=False)
_replica_p.def_abstract_eval(lambda: ShapedArray((), jnp.dtype("uint32")))
mlir.register_lowering(_replica_p, lambda context: [stablehlo.replica_id()])


def platform_conv(
    lhs,
    rhs,
    window_strides: Sequence[int],
    padding: Any,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    **options: Any,
):
    """Do what `jax.lax.conv_general_dilated` does, without the shapes that XLA can't compile.

    On an axis without padding, with as many taps as the images' dilation and a stride of one less, XLA's simplifier
    keeps the window as it is while it exchanges the operands on an axis whose kernel is larger than the image, and then
    aborts the process: "Window dimensions do not match RHS shape" (jaxlib 0.10.2 and 0.12). With one more pixel of
    padding, whose output is cut off, there is no such axis.
    """
    arguments = {"rhs_dilation": rhs_dilation, "dimension_numbers": dimension_numbers, **options}
    if lhs_dilation is None or all(dilation == 1 for dilation in lhs_dilation):
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, lhs_dilation, **arguments)
    lhs_spec, rhs_spec, out_spec = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    taps = [rhs.shape[axis] for axis in rhs_spec[2:]]
    sizes = [(lhs.shape[axis] - 1) * dilation + 1 for axis, dilation in zip(lhs_spec[2:], lhs_dilation)]
    between = rhs_dilation or [1] * len(taps)
    if isinstance(padding, str):
        reach = [(k - 1) * dilation + 1 for k, dilation in zip(taps, between)]
        padding = lax.padtype_to_pads(sizes, reach, window_strides, padding)
    padding, limits = list(padding), {}
    for place, (size, k, stride) in enumerate(zip(sizes, taps, window_strides)):
        if 1 < k == lhs_dilation[place] == stride + 1 and between[place] == 1 and tuple(padding[place]) == (0, 0):
            padding[place], limits[out_spec[place + 2]] = (0, 1), (size - k) // stride + 1
    y = lax.conv_general_dilated(lhs, rhs, window_strides, padding, lhs_dilation, **arguments)
    return lax.slice(y, [0] * y.ndim, [limits.get(axis, size) for axis, size in enumerate(y.shape)]) if limits else y
