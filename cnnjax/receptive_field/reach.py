"""What every element of a value reads along one axis of the input: plain arrays, exact to the last border pixel.

An interval is held as (-first, last), so that whatever joins intervals is a maximum, and reading nothing is minus
infinity. Each is held twice: as it is, padding reading nothing; and as it were if the image went on for ever, padding
being more of it. The second needs a law by which to go on beyond the border: `read(i + period) = read(i) + shift`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import NamedTuple

import numpy as np

NOTHING = -np.inf
# Which way the rows (-first, last) of the image as it is, and of the endless one, move with a shift.
_SIGNS = np.array([-1.0, 1.0, -1.0, 1.0])


class Law(NamedTuple):
    """Say that along an axis of the value what is read moves by `shift` pixels every `period` elements (0: no law)."""

    axis: int | None = None
    period: int = 0
    shift: int = 0


NO_LAW = Law()


@dataclass(frozen=True)
class Reach:
    """Hold what each element of a value reads along one axis of the input.

    Args:
      reads: `[4, ...]`, then one axis for each of the value's, of its size or of 1 where it makes no difference. The
        rows are -first and last pixel read, and the same of an endless image.
      law: How what is read moves along the axis of the value that runs along the input's axis.
    """

    reads: np.ndarray
    law: Law = NO_LAW

    @property
    def axis(self) -> int | None:
        """The axis of the value that runs along the input's axis, or None."""
        return self.law.axis

    def varies(self, axis: int) -> bool:
        """Say whether elements along an axis read different things."""
        return self.reads.shape[axis + 1] > 1

    def same(self, other: "Reach") -> bool:
        """Say whether both read the same."""
        return self.law == other.law and bool(np.all(self.reads == other.reads))

    def without_law(self) -> "Reach":
        """Return it with nothing known beyond the border."""
        return replace(self, law=Law(self.axis))


def of_input(shape: Sequence[int], axis: int) -> Reach:
    """Return what the input's own elements read: themselves."""
    pixels = np.arange(shape[axis], dtype=float).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return Reach(np.stack([-pixels, pixels, -pixels, pixels]), Law(axis, 1, 1))


def union(reaches: Sequence[Reach]) -> Reach:
    """Join what several values of one rank read, element by element."""
    if len(reaches) == 1:
        return reaches[0]
    return Reach(reduce(np.maximum, [reach.reads for reach in reaches]), _common_law([reach.law for reach in reaches]))


def _common_law(laws: Sequence[Law]) -> Law:
    axes = {law.axis for law in laws} - {None}
    axis = axes.pop() if len(axes) == 1 else None
    if axis is None or any(law.axis != axis or not law.period for law in laws):
        return Law(axis)
    period = math.lcm(*(law.period for law in laws))
    shifts = {law.shift * period // law.period for law in laws}
    return Law(axis, period, shifts.pop()) if len(shifts) == 1 else Law(axis)


def window(
    reach: Reach,
    axis: int,
    size: int,
    output: int,
    *,
    taps: int = 1,
    stride: int = 1,
    low: int = 0,
    base_dilation: int = 1,
    window_dilation: int = 1,
    whole_from: int = 4,
) -> Reach:
    """Slide a window along an axis. One tap makes it padding, cutting or striding.

    Args:
      reach: What the operand's elements read.
      axis: Axis of the operand, and of the result.
      size: The operand's elements along it.
      output: The result's.
      taps: Elements that a window reads.
      stride: Elements between windows.
      low: Padding before the first element; negative where some are cut off.
      base_dilation: Elements between the operand's, those in between reading nothing.
      window_dilation: Elements between taps.
      whole_from: Taps from which on a single window over everything is a reduction: the axis is no image's any more.
    """
    first_taps = np.arange(output) * stride
    places = np.arange((output - 1) * stride + (taps - 1) * window_dilation + 1) - low
    index, beside = np.divmod(places, base_dilation)
    alive = (beside == 0) & (index >= 0) & (index < size)
    law = strided(reach.law, axis, base_dilation, stride)
    moves = reach.varies(axis) or (reach.axis == axis and reach.law.shift != 0)
    windows = [first_taps + tap * window_dilation for tap in range(taps)]
    if output == 1 and size > 1 and taps >= whole_from and alive.sum() == size and window_dilation == 1:
        return compress(maximum(replace(reach, law=Law() if reach.axis == axis else reach.law), [axis], keep=True))
    if not moves and np.logical_or.reduce([alive[each] for each in windows]).all():
        return replace(reach, law=law)
    reads, endless = _read_at(reach, axis, size, index)
    gaps = _along(~alive, axis, reads.ndim)
    reads[:2] = np.where(gaps, NOTHING, reads[:2])
    between = _along((beside != 0) | ~endless, axis, reads.ndim)
    reads[2:] = np.where(between, NOTHING, reads[2:])
    joined = reduce(np.maximum, [np.take(reads, each, axis + 1) for each in windows])
    kept = bool(np.all(endless | (beside != 0)))
    return compress(Reach(joined, law if kept or reach.axis != axis else Law(reach.axis)))


def strided(law: Law, axis: int, dilation: int, stride: int) -> Law:
    """Return the law along an axis whose elements are put apart, and of which every few are taken."""
    if law.axis != axis or not law.period:
        return law
    spread = law.period * dilation
    period = spread // math.gcd(spread, abs(stride))
    return Law(axis, period, law.shift * (period * stride // spread))


def _read_at(reach: Reach, axis: int, size: int, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what is read at places along an axis, beyond the border too, and where that is known."""
    period = reach.law.period if reach.axis == axis and reach.law.period <= size else 0
    inside = (index >= 0) & (index < size)
    if not period:
        # Of an endless image more of the same lies beyond, even where padding is told apart from pixels inside.
        beyond = reach.reads[2:]
        even = bool(np.all(beyond == np.take(beyond, [0], axis + 1)))
        moves = not even or (reach.axis == axis and reach.law.shift)
        known = inside if moves else np.ones_like(inside)
        place = np.clip(index, 0, reach.reads.shape[axis + 1] - 1)
        return np.take(reach.reads, place, axis + 1), known
    turns, place = np.divmod(index, period)
    # Inside, the arrays themselves are read: a law that they do not follow would show.
    turns, place = np.where(inside, 0, turns), np.where(inside, index, place)
    place = np.minimum(place, reach.reads.shape[axis + 1] - 1)
    moved = _along(turns * reach.law.shift, axis, reach.reads.ndim) * _along(_SIGNS, -1, reach.reads.ndim)
    return np.take(reach.reads, place, axis + 1) + moved, np.ones_like(inside)


def _along(vector: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Return a vector shaped to broadcast along an axis of a value (-1 for the rows) in arrays of a rank."""
    return vector.reshape([-1 if place == axis + 1 else 1 for place in range(rank)])


def compress(reach: Reach) -> Reach:
    """Return the reach with size 1 along every axis that makes no difference, save its own."""
    reads = reach.reads
    for axis in range(1, reads.ndim):
        if reads.shape[axis] > 1 and (axis - 1 != reach.axis or not reach.law.shift):
            first = np.take(reads, [0], axis)
            if np.array_equal(np.broadcast_to(first, reads.shape), reads):
                reads = first
    return replace(reach, reads=reads)


def maximum(reach: Reach, axes: Sequence[int], *, keep: bool = False) -> Reach:
    """Join everything along some axes, which go, unless they are kept as axes whose elements all read the same."""
    reads = reach.reads.max(tuple(axis + 1 for axis in axes), keepdims=True) if axes else reach.reads
    law = Law(reach.axis) if reach.axis in axes else reach.law
    if keep:
        return Reach(reads, law)
    left = [axis for axis in range(reads.ndim - 1) if axis not in axes]
    return rearrange(Reach(reads, law), left)


def rearrange(reach: Reach, axes: Sequence[int | None]) -> Reach:
    """Return the reach with its axes in another order: None is a new one, one not named goes and must be of size 1."""
    named = [axis for axis in axes if axis is not None]
    gone = [axis for axis in range(reach.reads.ndim - 1) if axis not in named]
    reads = np.transpose(reach.reads, [0, *(axis + 1 for axis in named), *(axis + 1 for axis in gone)])
    reads = reads.reshape([4, *(1 if axis is None else reach.reads.shape[axis + 1] for axis in axes)])
    place = None if reach.axis is None or reach.axis in gone else list(axes).index(reach.axis)
    return Reach(reads, reach.law._replace(axis=place) if place is not None else Law())


def reverse(reach: Reach, axes: Sequence[int]) -> Reach:
    """Return the reach read backwards along some axes."""
    law = reach.law._replace(shift=-reach.law.shift) if reach.axis in axes else reach.law
    return Reach(np.flip(reach.reads, tuple(axis + 1 for axis in axes)), law)


def accumulate(reach: Reach, axis: int, backwards: bool) -> Reach:
    """Join each element along an axis with all before it, or all after it."""
    if not reach.varies(axis):
        return reach.without_law() if reach.axis == axis else reach
    reads = np.flip(reach.reads, axis + 1) if backwards else reach.reads
    reads = np.maximum.accumulate(reads, axis + 1)
    joined = replace(reach, reads=np.flip(reads, axis + 1) if backwards else reads)
    return joined.without_law() if reach.axis == axis else joined


def concatenate(reaches: Sequence[Reach | None], axis: int, sizes: Sequence[int]) -> Reach:
    """Put reaches one after another; None reads nothing. Zeros around one value are padding like any other."""
    real = [reach for reach in reaches if reach is not None]
    if len(real) == 1:
        place = next(place for place, reach in enumerate(reaches) if reach is not None)
        return window(real[0], axis, sizes[place], sum(sizes), low=sum(sizes[:place]))
    rank = real[0].reads.ndim
    shape = [max(reach.reads.shape[place] for reach in real) for place in range(rank)]
    parts = []
    for reach, size in zip(reaches, sizes):
        full = [size if place == axis + 1 else length for place, length in enumerate(shape)]
        parts.append(np.full(full, NOTHING) if reach is None else np.broadcast_to(reach.reads, full))
    law = _common_law([reach.law for reach in real])
    return compress(Reach(np.concatenate(parts, axis + 1), Law(axis) if law.axis == axis else law))
