"""What working element by element, choosing, putting side by side and reshaping do to what values read."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cnnjax import jax_versions
from cnnjax.receptive_field.reach import NOTHING, Law, Reach, compress, concatenate, maximum, rearrange, strided, window
from cnnjax.receptive_field.value import Value, everything, joined

Shape = tuple[int, ...]


def elementwise(eqn, operands, shapes, note):
    del eqn, note
    return [replace(joined([_spread(operand, shapes[0]) for operand in operands]), shape=shapes[0])]


def _spread(operand: Value, shape: Shape) -> Value:
    """Return a single number as a value of a shape; others have it already."""
    if len(operand.shape) == len(shape):
        return operand
    return Value(shape, tuple(rearrange(reach, [None] * len(shape)) for reach in operand.reaches), operand.notes)


def _select(eqn, operands, shapes, note):
    """Follow each element to the case that is chosen for it, where the function itself fixes the choice."""
    choice, *cases = operands
    if choice.constant is None:
        return elementwise(eqn, operands, shapes, note)
    which = np.broadcast_to(choice.constant.value().astype(int), shapes[0])
    chosen = []
    for number, case in enumerate(cases):
        taken = (which == number)[None]
        reaches = [
            compress(Reach(np.where(taken, reach.reads, NOTHING), reach.law if taken.all() else Law(reach.axis)))
            for reach in case.reaches
        ]
        if taken.any():
            chosen.append(Value(shapes[0], tuple(reaches)))
    return [joined(chosen)]


def _bits(eqn, operands, shapes, note):
    if operands[0].shape == shapes[0]:
        return elementwise(eqn, operands, shapes, note)
    kept = len(operands[0].shape) if len(shapes[0]) > len(operands[0].shape) else len(shapes[0])
    reaches = []
    for reach in operands[0].reaches:  # an element becomes several, along a new last axis, or several become one
        whole = maximum(reach, range(kept, len(operands[0].shape)))
        reaches.append(rearrange(whole, [axis if axis < kept else None for axis in range(len(shapes[0]))]))
    return [Value(shapes[0], tuple(reaches))]


def _split(eqn, operands, shapes, note):
    del note
    axis, results, start = jax_versions.params(eqn)["axis"], [], 0
    for shape in shapes:
        size = operands[0].shape[axis]
        parts = [window(reach, axis, size, shape[axis], low=-start) for reach in operands[0].reaches]
        results.append(Value(shape, tuple(parts)))
        start += shape[axis]
    return results


def _pad(eqn, operands, shapes, note):
    del note
    operand, filling = operands
    padded = []
    for reach in operand.reaches:
        for axis, (low, _, interior) in enumerate(jax_versions.params(eqn)["padding_config"]):
            if operand.shape[axis] != shapes[0][axis] or low:
                reach = window(reach, axis, operand.shape[axis], shapes[0][axis], low=low, base_dilation=interior + 1)
        padded.append(reach)
    return [joined([Value(shapes[0], tuple(padded)), everything([filling], shapes[0])])]


def _concatenate(eqn, operands, shapes, note):
    del note
    axis = jax_versions.params(eqn)["dimension"]
    sizes = [operand.shape[axis] for operand in operands]
    count = max(len(operand.reaches) for operand in operands)
    columns = [[operand.reaches[i] if operand.reads else None for operand in operands] for i in range(count)]
    return [Value(shapes[0], tuple(concatenate(column, axis, sizes) for column in columns))]


def _stack(eqn, operands, shapes, note):
    del shapes, note
    return [stacked(operands, jax_versions.params(eqn)["axis"])]


def stacked(values: Sequence[Value], axis: int) -> Value:
    """Put values of one shape one after another along a new axis."""
    shape = (*values[0].shape[:axis], len(values), *values[0].shape[axis:])
    axes = [None if place == axis else place - (place > axis) for place in range(len(shape))]
    columns = [
        [rearrange(value.reaches[place], axes) if value.reads else None for value in values]
        for place in range(max(len(value.reaches) for value in values))
    ]
    reaches = tuple(concatenate(column, axis, [1] * len(values)) for column in columns)
    return Value(shape, reaches, frozenset().union(*(value.notes for value in values)))


def _unstack(eqn, operands, shapes, note):
    del note
    (operand,), axis = operands, jax_versions.params(eqn)["axis"]
    others = [place for place in range(len(operand.shape)) if place != axis]
    results = []
    for row, shape in enumerate(shapes):
        reaches = []
        for reach in operand.reaches:
            picked = np.take(reach.reads, [row if reach.varies(axis) else 0], axis + 1)
            reaches.append(rearrange(Reach(picked, reach.law), others))
        results.append(Value(shape, tuple(reaches)))
    return results


def reshape(reach: Reach, old: Sequence[int], new: Sequence[int]) -> Reach:
    """Return the reach of a reshaped value. An axis split or merged lives on in its slowest part."""
    reads, law, shape = reach.reads, Law(), [4]
    view: list[int] = [4]
    for before, after in _groups(old, new):
        sizes = [reads.shape[axis + 1] for axis in before]
        flat = all(size == 1 for size in sizes)
        view += sizes if flat else [old[axis] for axis in before]
        shape += [1] * len(after) if flat else [new[axis] for axis in after]
        if reach.axis in before and after:
            inner_before = math.prod(old[axis] for axis in before[before.index(reach.axis) + 1 :])
            outermost = math.prod(old[axis] for axis in before[: before.index(reach.axis)]) == 1
            place = next((axis for axis in after if new[axis] > 1), after[0])
            inner_after = math.prod(new[axis] for axis in after[after.index(place) + 1 :])
            if outermost:
                merged = Law(place, reach.law.period * inner_before, reach.law.shift)
                law = strided(merged, place, 1, inner_after) if merged.period else Law(place)
    return Reach(np.broadcast_to(reads, view).reshape(shape), law)


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Pair the shortest runs of axes of both shapes that hold equally many elements."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        before, after = ([i] if i < len(old) else []), ([j] if j < len(new) else [])
        i, j = i + len(before), j + len(after)
        while (count := math.prod(old[a] for a in before)) != (other := math.prod(new[a] for a in after)):
            if count < other:
                before.append(i)
                i += 1
            else:
                after.append(j)
                j += 1
        groups.append((before, after))
    return groups


RULES = {
    "bitcast_convert_type": _bits,
    "concatenate": _concatenate,
    "pad": _pad,
    "select_n": _select,
    "split": _split,
    "stack": _stack,
    "unstack": _unstack,
}
