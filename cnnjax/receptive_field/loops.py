"""What a loop carries from one step to the next, and hands to each of them."""

from dataclasses import replace

from cnnjax.receptive_field.reach import rearrange
from cnnjax.receptive_field.value import Constant, Value


def counted(value: Value) -> Value:
    """Return the value with a single number computed, so that what loops count does not become ever longer."""
    if value.constant is None or value.shape or value.constant.depth == 1:
        return value
    return replace(value, constant=Constant.given(value.constant.value()))


def is_list(value: Value) -> bool:
    """Say whether it is a list of numbers that the function itself makes, such as places to go to one after another."""
    return value.constant is not None and len(value.shape) == 1


def row_of(value: Value, row: int) -> Value:
    """Return what one element along the first axis reads, without that axis."""
    if value.constant is not None and is_list(value):
        return Value((), constant=value.constant.row(row))
    reaches = []
    for reach in value.reaches:
        picked = replace(reach, reads=reach.reads[:, [row if reach.varies(0) else 0]])
        reaches.append(rearrange(picked, range(1, len(value.shape))))
    return Value(value.shape[1:], tuple(reaches), value.notes)


def lawless(value: Value) -> Value:
    """Return the value with the image ending at its border: what grows with every run would not settle otherwise."""
    reaches = []
    for reach in value.reaches:
        reads = reach.reads.copy()
        reads[2:] = reads[:2]
        reaches.append(replace(reach, reads=reads).without_law())
    return replace(value, reaches=tuple(reaches))
