"""What slicing, gathering and scattering at given places do to what their operands read.

Places that the function itself fixes are followed exactly. Places that depend on data or on parameters can't be known:
then everything that could be picked counts as read, and a note says so.
"""

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import jax_versions
from cnnjax.receptive_field.reach import NOTHING, Law, Reach, compress, maximum, rearrange, window
from cnnjax.receptive_field.value import Value, everything, joined


def _unknown(places: Sequence[Value]) -> str:
    """Say why the places are not known: the image decides, or a parameter, or a count that goes on for too long."""
    why = "depend on data" if any(place.reads for place in places) else "could not be followed"
    return f"picks places that {why}, so it is taken to read every place that it could pick"


def _starts(operands: Sequence[Value], room: Sequence[int]) -> list[int | None]:
    """Return where a slice starts on each axis, None where that is not known; JAX moves it until it fits."""
    starts = []
    for operand, free in zip(operands, room):
        known = 0 if free == 0 else None if operand.constant is None else int(operand.constant.value())
        starts.append(None if known is None else min(max(known, 0), free))
    return starts


def _dynamic_slice(eqn, operands, shapes, note):
    operand, size = operands[0], jax_versions.params(eqn)["slice_sizes"]
    room = [have - want for have, want in zip(operand.shape, size)]
    starts, reaches, unknown = _starts(operands[1:], room), [], False
    for reach in operand.reaches:
        for axis, start in enumerate(starts):
            if start is None:
                unknown |= reach.varies(axis)
                reach = window(reach, axis, operand.shape[axis], size[axis], taps=room[axis] + 1)
                reach = replace(reach, law=Law(reach.axis)) if reach.axis == axis else reach
            elif room[axis]:
                reach = window(reach, axis, operand.shape[axis], size[axis], low=-start)
        reaches.append(reach)
    notes = [note(_unknown(operands[1:]), exact=False)] if unknown or any(start.reads for start in operands[1:]) else []
    return [joined([Value(shapes[0], tuple(reaches)), everything(operands[1:], shapes[0])]).noting(*notes)]


def _dynamic_update_slice(eqn, operands, shapes, note):
    operand, update = operands[:2]
    shape = shapes[0]
    room = [have - want for have, want in zip(shape, update.shape)]
    starts = _starts(operands[2:], room)
    if any(start is None for start in starts):
        axes = [axis for axis, free in enumerate(room) if free]
        spread = [maximum(reach, axes, keep=True) for reach in update.reaches]
        chosen = everything(operands[2:], shape)
        return [
            joined([operand, Value(shape, tuple(spread)), chosen]).noting(note(_unknown(operands[2:]), exact=False))
        ]
    below, above = [], []
    for reach in operand.reaches:
        erased = reach
        if all(room[axis] == 0 for axis in range(len(shape))):
            continue
        reads = np.broadcast_to(
            reach.reads, [4, *(n if room[a] else reach.reads.shape[a + 1] for a, n in enumerate(shape))]
        )
        reads = reads.copy()
        reads[
            (slice(None), *(slice(s, s + n) if r else slice(None) for s, n, r in zip(starts, update.shape, room)))
        ] = NOTHING
        erased = compress(Reach(reads, Law(reach.axis)))
        below.append(erased)
    for reach in update.reaches:
        for axis, start in enumerate(starts):
            if start is not None and room[axis]:
                reach = window(reach, axis, update.shape[axis], shape[axis], low=start)
        above.append(reach)
    return [joined([Value(shape, tuple(below)), Value(shape, tuple(above))])]


def _gather(eqn, operands, shapes, note):
    operand, indices = operands
    numbers, sizes = jax_versions.params(eqn)["dimension_numbers"], jax_versions.params(eqn)["slice_sizes"]
    rank = len(shapes[0])
    batch_axes = [axis for axis in range(rank) if axis not in numbers.offset_dims]
    hidden = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    shown = [axis for axis in range(len(operand.shape)) if axis not in hidden]
    indexed = [axis for axis in numbers.start_index_map if sizes[axis] < operand.shape[axis]]
    # Where whole lines are picked along one axis, the result has that axis still.
    follows = {}
    if len(batch_axes) == 1 and len(numbers.collapsed_slice_dims) == 1:
        follows = {numbers.collapsed_slice_dims[0]: batch_axes[0]}
    follows |= dict(zip(shown, numbers.offset_dims))
    known, reaches = indices.constant is not None, []
    outside = known and _leave(indices.constant.value(), operand.shape, jax_versions.params(eqn))
    for reach in operand.reaches:
        law = Law(follows.get(reach.axis)) if reach.axis is not None else Law()
        if known and (outside or any(reach.varies(axis) for axis in indexed)):
            reads = _gathered(reach, operand.shape, jax_versions.params(eqn), indices.constant.value())
        else:
            still = maximum(reach, indexed, keep=True)
            source = dict(zip(numbers.offset_dims, shown))
            places = dict(zip(numbers.start_indices_batching_dims, numbers.operand_batching_dims))
            source |= {batch_axes[place]: axis for place, axis in places.items()}
            reads = rearrange(replace(still, law=Law()), [source.get(axis) for axis in range(rank)]).reads
            if reach.axis not in indexed and reach.axis is not None and law.axis is not None:
                law = reach.law._replace(axis=law.axis)
        reaches.append(compress(Reach(reads, law)))
    result = Value(shapes[0], tuple(reaches))
    if indices.reads:
        by_place = [
            rearrange(maximum(r, [len(indices.shape) - 1], keep=True), _batch(batch_axes, rank))
            for r in indices.reaches
        ]
        result = joined([result, Value(shapes[0], tuple(by_place))])
    unsure = (
        not known
        and operand.reads
        and (indices.reads or any(reach.varies(axis) for reach in operand.reaches for axis in indexed))
    )
    return [result.noting(note(_unknown([indices]), exact=False)) if unsure else result]


def _leave(indices, shape, params) -> bool:
    """Say whether some of the places are outside, so that nothing is read there but what fills."""
    if params["mode"] != lax.GatherScatterMode.FILL_OR_DROP:
        return False
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    most = np.array([shape[axis] - sizes[axis] for axis in numbers.start_index_map])
    return bool(np.any((indices < 0) | (indices > most)))


def _batch(batch_axes: Sequence[int], rank: int) -> list[int | None]:
    return [batch_axes.index(axis) if axis in batch_axes else None for axis in range(rank)]


def _gathered(reach: Reach, shape, params, indices) -> np.ndarray:
    """Gather what is read just as the elements are; axes that make no difference stay of size 1."""
    numbers = params["dimension_numbers"]
    fixed = {*numbers.start_index_map, *numbers.operand_batching_dims, *numbers.collapsed_slice_dims}
    full = [n if axis in fixed else reach.reads.shape[axis + 1] for axis, n in enumerate(shape)]
    sizes = [min(size, n) for size, n in zip(params["slice_sizes"], full)]
    reads = jnp.asarray(np.broadcast_to(reach.reads, [4, *full]), jnp.float32)
    mode = params["mode"]
    if mode == lax.GatherScatterMode.PROMISE_IN_BOUNDS:
        mode = lax.GatherScatterMode.CLIP
    picked = jax.vmap(
        lambda row: lax.gather(row, jnp.asarray(indices), numbers, tuple(sizes), mode=mode, fill_value=NOTHING)
    )(reads)
    return np.asarray(picked, float)


def _scatter(eqn, operands, shapes, note):
    operand, indices, updates = operands
    if indices.constant is None:
        anywhere = everything([updates, indices], shapes[0])
        return [joined([operand, anywhere]).noting(note(_unknown([indices]), exact=False))]
    count = max(len(operand.reaches), len(updates.reaches))
    reaches = []
    for place in range(count):
        below = operand.reaches[place].reads if operand.reads else np.full([4] + [1] * len(operand.shape), NOTHING)
        above = updates.reaches[place].reads if updates.reads else np.full([4] + [1] * len(updates.shape), NOTHING)
        law = Law(operand.reaches[place].axis) if operand.reads else Law()
        reaches.append(compress(Reach(_scattered(below, above, operand.shape, updates.shape, eqn, indices), law)))
    return [Value(shapes[0], tuple(reaches))]


def _scattered(below, above, shape, update_shape, eqn, indices) -> np.ndarray:
    """Scatter what is read just as the elements are; axes that are written whole and make no difference have size 1."""
    numbers = jax_versions.params(eqn)["dimension_numbers"]
    hidden = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    shown = [axis for axis in range(len(shape)) if axis not in hidden]
    below_sizes, above_sizes = list(shape), list(update_shape)
    for axis, window_axis in zip(shown, numbers.update_window_dims):
        plain = axis not in numbers.scatter_dims_to_operand_dims and shape[axis] == update_shape[window_axis]
        if plain and below.shape[axis + 1] == 1 == above.shape[window_axis + 1]:
            below_sizes[axis] = above_sizes[window_axis] = 1
    base = jnp.asarray(np.broadcast_to(below, [4, *below_sizes]), jnp.float32)
    written = jnp.asarray(np.broadcast_to(above, [4, *above_sizes]), jnp.float32)
    mode = jax_versions.params(eqn)["mode"]
    function = lax.scatter if eqn.primitive.name == "scatter" else lax.scatter_max
    place = jnp.asarray(indices.constant.value())
    return np.asarray(jax.vmap(lambda b, w: function(b, place, w, numbers, mode=mode))(base, written), float)


_SCATTERS = ("scatter", "scatter-add", "scatter_add", "scatter_max", "scatter_min", "scatter_mul", "scatter_sub")
RULES = {
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    **dict.fromkeys((*_SCATTERS, *(name.replace("_", "-") for name in _SCATTERS)), _scatter),
}
