"""What each primitive does to what its operands read. A primitive without a rule is taken to read everything."""

from collections.abc import Callable, Sequence
from typing import Any

from jax.extend import core

from cnnjax import jax_versions
from cnnjax.receptive_field import combining, convolution, indexing
from cnnjax.receptive_field.reach import (
    Reach,
    accumulate,
    concatenate,
    maximum,
    rearrange,
    reverse,
    window,
)
from cnnjax.receptive_field.value import Note, Value, everything, joined

Shape = tuple[int, ...]
Notes = Callable[..., Note]
Rule = Callable[[core.JaxprEqn, Sequence[Value], Sequence[Shape], Notes], list[Value]]

_ELEMENTWISE = """
abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz complex conj
convert_element_type copy copy_p cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma
igamma_grad_a igammac imag integer_pow is_finite layout_constraint le le_to lgamma log log1p log2 logistic lt lt_to
max min mul mulhi name ne neg nextafter not one_minus_square or polygamma polynomial population_count pow pvary
random_gamma_grad real reduce_precision regularized_incomplete_beta rem reshard round rsqrt sharding_constraint
shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor zeta
"""
_REDUCTIONS = "argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum reduce_xor"
_CUMULATIVE = "cumlogsumexp cummax cummin cumprod cumsum"


def apply(eqn: core.JaxprEqn, operands: Sequence[Value], shapes: Sequence[Shape], note: Notes) -> list[Value]:
    """Return what the results of an equation read, at least one of whose operands reads something.

    Args:
      eqn: The equation, which holds no others.
      operands: What is known of its operands.
      shapes: Shapes of its results.
      note: Makes a note that names the equation's primitive and line.
    """
    rule = RULES.get(eqn.primitive.name)
    if rule is None:
        unknown = note("is not known here, so it is taken to read everything that its operands read", exact=False)
        return [everything(operands, shape, unknown) for shape in shapes]
    notes = frozenset().union(*(operand.notes for operand in operands))
    return [result.noting(*notes) if result.reads else result for result in rule(eqn, operands, shapes, note)]


def _mapping(function: Callable[[Reach, dict[str, Any], Shape, Shape], Reach]) -> Rule:
    """Make a rule of what happens to the reach of the only operand that matters, the first."""

    def rule(eqn: core.JaxprEqn, operands: Sequence[Value], shapes: Sequence[Shape], note: Notes) -> list[Value]:
        del note
        reaches = tuple(
            function(reach, jax_versions.params(eqn), operands[0].shape, shapes[0]) for reach in operands[0].reaches
        )
        return [Value(shapes[0], reaches)] * len(shapes)

    return rule


def each_for_itself(eqn, operands, shapes, note):
    """Give each result what the operand in its place reads."""
    del eqn, shapes, note
    return list(operands)


def _broadcast(reach, params, old, new):
    source = dict(zip(params["broadcast_dimensions"], range(len(old))))
    if reach.axis is not None and old[reach.axis] != new[params["broadcast_dimensions"][reach.axis]]:
        reach = Reach(reach.reads)
    return rearrange(reach, [source.get(axis) for axis in range(len(new))])


def _reduce(reach, params, old, new):
    del old, new
    return maximum(reach, params["axes"])


def _general_reduce(eqn, operands, shapes, note):
    del note
    axes = jax_versions.params(eqn)["dimensions"]
    reduced = [
        Value(shapes[0], tuple(maximum(reach, axes) for reach in operand.reaches), operand.notes)
        for operand in operands[: len(shapes)]
    ]
    start = everything(operands[len(shapes) :], shapes[0])
    return [joined([*reduced, start])] * len(shapes)


def _sum_window(reach, params, old, new):
    # However few pixels are left, their only mean is a global average, while a 2/2 maximum is one more pool.
    return _reduce_window(reach, params, old, new, whole_from=2)


def _reduce_window(reach, params, old, new, whole_from=4):
    settings = zip(
        params["window_dimensions"],
        params["window_strides"],
        (low for low, _ in params["padding"]),
        params["base_dilation"],
        params["window_dilation"],
    )
    for axis, (taps, stride, low, base, dilation) in enumerate(settings):
        if (taps, stride, low, base) != (1, 1, 0, 1) or old[axis] != new[axis]:
            reach = window(
                reach,
                axis,
                old[axis],
                new[axis],
                taps=taps,
                stride=stride,
                low=low,
                base_dilation=base,
                window_dilation=dilation,
                whole_from=whole_from,
            )
    return reach


def _general_reduce_window(eqn, operands, shapes, note):
    del note
    count = len(shapes)
    slid = [
        Value(
            shapes[0],
            tuple(_reduce_window(r, jax_versions.params(eqn), operand.shape, shapes[0]) for r in operand.reaches),
        )
        for operand in operands[:count]
    ]
    return [joined([*slid, everything(operands[count:], shapes[0])])] * count


def _slice(reach, params, old, new):
    for axis, (start, stride) in enumerate(zip(params["start_indices"], params["strides"] or [1] * len(old))):
        if old[axis] != new[axis]:
            reach = window(reach, axis, old[axis], new[axis], stride=stride, low=-start)
            if new[axis] == 1 and reach.axis == axis:  # one pixel picked out: no map any more
                reach = Reach(reach.reads)
    return reach


def _tile(reach, params, old, new):
    del new
    for axis, count in enumerate(params["reps"]):
        if count > 1:
            reach = concatenate([reach] * count, axis, [old[axis]] * count)
    return reach


def _squeeze(reach, params, old, new):
    del new
    return rearrange(reach, [axis for axis in range(len(old)) if axis not in params["dimensions"]])


def _sort(eqn, operands, shapes, note):
    del note
    axis = jax_versions.params(eqn)["dimension"]
    sorted_ = [
        Value(shapes[0], tuple(maximum(reach, [axis], keep=True) for reach in operand.reaches)) for operand in operands
    ]
    return [joined(sorted_)] * len(shapes)


def _top(reach, params, old, new):
    del new
    return maximum(reach, [params.get("axis", -1) % len(old)], keep=True)


def _fourier(eqn, operands, shapes, note):
    (operand,), lengths = operands, jax_versions.params(eqn)["fft_lengths"]
    axes = range(len(operand.shape) - len(lengths), len(operand.shape))
    reaches = tuple(maximum(reach, axes, keep=True) for reach in operand.reaches)
    # One transform reads all; of a second after it, which may undo the first, that is only the most that it could be.
    again = any(known.text.startswith("fft at") for known in operand.notes)
    return [Value(shapes[0], reaches).noting(note("makes every element read all along its axes", exact=not again))]


def _permute(reach, params, old, new):
    del old, new
    return rearrange(reach, params["permutation"])


RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(), combining.elementwise),
    **dict.fromkeys(_REDUCTIONS.split(), _mapping(_reduce)),
    **dict.fromkeys(_CUMULATIVE.split(), _mapping(lambda r, p, old, new: accumulate(r, p["axis"], p["reverse"]))),
    **dict.fromkeys(("reduce_window_max", "reduce_window_min"), _mapping(_reduce_window)),
    **dict.fromkeys(("device_put", "optimization_barrier"), each_for_itself),
    **combining.RULES,
    **convolution.RULES,
    **indexing.RULES,
    "broadcast_in_dim": _mapping(_broadcast),
    "fft": _fourier,
    "reduce": _general_reduce,
    "reduce_window_sum": _mapping(_sum_window),
    "reduce_window": _general_reduce_window,
    "reshape": _mapping(lambda reach, params, old, new: combining.reshape(reach, old, new)),
    "rev": _mapping(lambda reach, params, old, new: reverse(reach, params["dimensions"])),
    "slice": _mapping(_slice),
    "sort": _sort,
    "squeeze": _mapping(_squeeze),
    "tile": _mapping(_tile),
    "top_k": _mapping(_top),
    "transpose": _mapping(_permute),
}
