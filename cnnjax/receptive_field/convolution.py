"""What convolutions and matrix products do to what their operands read."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cnnjax import jax_versions
from cnnjax.receptive_field.reach import Law, Reach, compress, maximum, rearrange, window
from cnnjax.receptive_field.value import Value, joined


def _convolution(eqn, operands, shapes, note):
    del note
    params, (lhs, rhs) = jax_versions.params(eqn), operands
    dimensions = params["dimension_numbers"]
    settings = {
        "strides": params["window_strides"],
        "lows": [low for low, _ in params["padding"]],
        "base_dilation": params["lhs_dilation"],
        "window_dilation": params["rhs_dilation"],
    }
    groups = params["feature_group_count"], params["batch_group_count"]
    return [_convolved(lhs, rhs, shapes[0], dimensions, settings, groups)]


def _convolved(lhs: Value, rhs: Value, shape, dimensions, settings, groups) -> Value:
    lhs_spec, rhs_spec, out_spec = dimensions
    sizes, taps = [lhs.shape[a] for a in lhs_spec[2:]], [rhs.shape[a] for a in rhs_spec[2:]]
    outputs = [shape[a] for a in out_spec[2:]]
    order = [out_spec.index(axis) for axis in range(len(out_spec))]
    parts = []
    for value, from_image in ((lhs, True), (rhs, False)):
        reaches = []
        for reach in value.reaches:
            if from_image:
                reach = rearrange(reach, lhs_spec)
                for place, (size, output, tap) in enumerate(zip(sizes, outputs, taps)):
                    reach = window(
                        reach,
                        place + 2,
                        size,
                        output,
                        taps=tap,
                        stride=settings["strides"][place],
                        low=settings["lows"][place],
                        base_dilation=settings["base_dilation"][place],
                        window_dilation=settings["window_dilation"][place],
                    )
                reach = _mixed(reach, shape[out_spec[1]], *groups)
            else:  # a kernel that depends on the input: every output reads all of its filter
                rest = list(rhs_spec[1:])
                reach = rearrange(maximum(reach, rest, keep=True), [None, rhs_spec[0], *[None] * len(taps)])
                reach = Reach(reach.reads)
            reaches.append(rearrange(reach, order))
        parts.append(Value(shape, tuple(reaches)))
    return joined(parts)


def _mixed(reach: Reach, features: int, groups: int, batch_groups: int) -> Reach:
    """Join the channels of each group, and the images of a grouped batch."""
    reads, law = reach.reads, reach.law if reach.axis not in (0, 1) else Law()
    if reads.shape[2] > 1:
        split = reads.reshape(*reads.shape[:2], groups, -1, *reads.shape[3:]).max(3)
        reads = np.repeat(split, features // groups, 2)
    if batch_groups > 1:
        reads = reads.max(1, keepdims=True)
    return compress(Reach(reads, law))


def _product(eqn, operands, shapes, note):
    del note
    contracted, batch = jax_versions.params(eqn)["dimension_numbers"]
    free = [
        [axis for axis in range(len(operand.shape)) if axis not in (*contracted[side], *batch[side])]
        for side, operand in enumerate(operands)
    ]
    parts = []
    for side, operand in enumerate(operands):
        other, reaches = operands[1 - side], []
        gap: list[int | None] = [None] * len(free[1 - side])
        plain = [*batch[side], *free[side], *gap] if side == 0 else [*batch[side], *gap, *free[side]]
        for reach in operand.reaches:
            sparse = None
            if any(reach.varies(axis) for axis in contracted[side]) and not batch[side]:
                sparse = _sparse(reach, contracted[side], contracted[1 - side], free[1 - side], other)
            if sparse is None:
                reach = maximum(reach, contracted[side], keep=True)
                reaches.append(rearrange(reach, plain))
                continue
            last = len(operand.shape)  # where `_sparse` puts the axis that the matrix makes
            reaches.append(rearrange(sparse, [*free[side], last] if side == 0 else [last, *free[side]]))
        parts.append(Value(shapes[0], tuple(reaches)))
    return [joined(parts)]


def _sparse(reach: Reach, axes: Sequence[int], others: Sequence[int], free: Sequence[int], matrix: Value):
    """Join only what a matrix that the function fixes itself, as an interpolation does, does not multiply by zero.

    Returns:
      The reach with a new last axis in place of the contracted one, which has size 1; None if the matrix is not such.
    """
    if len(axes) != 1 or len(free) != 1 or matrix.constant is None:
        return None
    (axis,), weights = axes, np.transpose(matrix.constant.value(), [*free, *others])
    if weights.all() or not weights.any():  # of nothing but zeros are fresh weights that a function closes over
        return None
    columns = []
    for row in weights:
        used = np.flatnonzero(row)
        part = np.take(reach.reads, used, axis + 1)
        columns.append(part.max(axis + 1, keepdims=True, initial=-np.inf))
    reads = np.stack(columns, -1)
    law = Law(reads.ndim - 2) if reach.axis == axis else reach.law
    return compress(replace(reach, reads=reads, law=law))


RULES = {"conv_general_dilated": _convolution, "dot_general": _product}
