"""The receptive field of a value: size, stride, padding, and what each of its units reads."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import numpy as np

from cnnjax.receptive_field.value import Note, Value

Interval = tuple[int, int]
# Elements after which what is read may repeat where no law says so: enough for the usual factors of resizing.
_LONGEST_PERIOD = 8
# How often it must where units go back and forth, and the share of the units away from the border that must do so.
_LEAST_PERIODS, _NEARLY_ALL = 3, 0.9


@dataclass(frozen=True)
class Axis:
    """Describe the receptive field along one axis of the image.

    Args:
      size: Pixels from the first to the last that a unit in the middle of an endless image reads; of units that differ,
        the most.
      stride: Pixels between two units; None where they are not evenly spaced, or there is one for the whole image.
      padding: Pixels before the image at which the first unit's field begins; None as for `stride`.
      centre: Where the middle of the first unit's field lies, the first pixel's middle being 0; None as for `stride`.
      uniform: Whether every unit has a field of this size, this stride from its neighbour.
      whole: Whether every unit reads the image from end to end.
    """

    size: int
    stride: int | float | None
    padding: int | None
    centre: float | None
    uniform: bool
    whole: bool


@dataclass(frozen=True)
class ReceptiveField:
    """Say which pixels the units of one value read. `size`, `stride` and so on have one entry for each spatial axis.

    Args:
      name: Where the value is made: scopes joined by `/`.
      output_shape: The value's shape.
      input_size: Pixels along each spatial axis of the image.
      unit_axes: Axes of the value that an index counts along.
    """

    name: str
    output_shape: tuple[int, ...]
    input_size: tuple[int, ...]
    _value: Value = field(repr=False)
    unit_axes: tuple[int, ...] = field(repr=False)

    @property
    def size(self) -> tuple[int, ...]:
        """Pixels from the first to the last that one unit reads, if the image is large enough."""
        return tuple(axis.size for axis in self.axes)

    @property
    def stride(self) -> tuple[int | float | None, ...]:
        """Pixels between the fields of two neighbouring units; None where there is no one number."""
        return tuple(axis.stride for axis in self.axes)

    @property
    def padding(self) -> tuple[int | None, ...]:
        """Pixels that the first unit's field hangs over before the image; None where there is no one number."""
        return tuple(axis.padding for axis in self.axes)

    @property
    def centre(self) -> tuple[float | None, ...]:
        """Middle of the first unit's field, in pixels from the middle of the first."""
        return tuple(axis.centre for axis in self.axes)

    @property
    def uniform(self) -> tuple[bool, ...]:
        """Whether all units have fields of one size and one stride."""
        return tuple(axis.uniform for axis in self.axes)

    @property
    def is_global(self) -> tuple[bool, ...]:
        """Whether every unit reads the image from end to end."""
        return tuple(axis.whole for axis in self.axes)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know of it: where a branch decides, and what could not be known, with the primitive and the line."""
        return tuple(note.text for note in self._sorted_notes)

    @property
    def exact(self) -> bool:
        """Whether it is what is read; if not, it is the most that could be, and the notes say why."""
        return all(note.exact for note in self._value.notes)

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """The same, axis by axis."""
        return tuple(self._axis(place) for place in range(len(self.input_size)))

    @property
    def units(self) -> tuple[int, ...]:
        """How many units there are along each axis that an index counts."""
        return tuple(self.output_shape[axis] for axis in self.unit_axes)

    def interval(self, index: Sequence[int], *, clip: bool = True) -> tuple[Interval | None, ...]:
        """Return the first and the last pixel that a unit reads, both inclusive, along each axis of the image.

        Args:
          index: The unit's place along the value's own spatial axes; all its channels together are the unit.
          clip: Whether padding is left out. If not, it counts as pixels outside the image, -1 being the one before
            the first, as far as the layers repeat themselves and so can be thought to go on there.
        Returns:
          A pair for each axis of the image: their hull, where a dilated window skips some. None if the unit reads
          nothing, but padding.
        Raises:
          ValueError: If the index has another length than the value has spatial axes.
          IndexError: If there is no such unit.
        Example:
          >>> from cnnjax.receptive_field import receptive_field
          >>> def smooth(x):
          ...     return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
          >>> import jax
          >>> receptive_field(smooth, (1, 8, 9, 1)).interval((3, 0))
          ((6, 7), (0, 1))
        """
        index = tuple(index)
        units = self.units
        if not units and len(index) == len(self.input_size):
            index = ()  # a value without spatial axes: whatever unit is meant, it reads the same
        if len(index) != len(units):
            raise ValueError(
                f"interval: expected an index of {len(units)} for {self.name} of shape {self.output_shape}, "
                f"got {index}. Count units along the spatial axes alone."
            )
        for place, (i, count) in enumerate(zip(index, units)):
            if not -count <= i < count:
                raise IndexError(
                    f"interval: expected index {place} from 0 to {count - 1} for {self.name} of shape "
                    f"{self.output_shape}, got {i}. Name a unit that exists."
                )
        rows = slice(0, 2) if clip else slice(2, 4)
        return tuple(_interval(self._units(place)[(rows, *index)]) for place in range(len(self.input_size)))

    def __str__(self) -> str:
        """Say it in a few lines."""
        lines = [f"{self.name or 'output'} {self.output_shape}"]
        for axis, size in zip(self.axes, self.input_size):
            words = f"  {axis.size} of {size} pixels"
            if axis.whole:
                words += ", the whole image"
            if axis.stride is not None:
                words += f", stride {axis.stride}, padding {axis.padding}, first centre {axis.centre}"
            lines.append(words + ("" if axis.uniform else " (units differ)"))
        lines += [f"  {'note' if note.exact else 'at most, since'}: {note.text}" for note in self._sorted_notes]
        return "\n".join(lines)

    @property
    def _sorted_notes(self) -> list[Note]:
        # Of two that say the same, the one that also says that it is not exact.
        by_text = {note.text: note for note in sorted(self._value.notes, key=lambda note: not note.exact)}
        return sorted(by_text.values(), key=lambda note: note.text)

    def _units(self, place: int) -> np.ndarray:
        """Return `[4, units...]`, what units read along an axis of the image, all channels joined."""
        reads = self._value.reaches[place].reads
        others = tuple(axis + 1 for axis in range(len(self.output_shape)) if axis not in self.unit_axes)
        joined = np.transpose(reads.max(others, keepdims=True), [0, *(a + 1 for a in self.unit_axes), *others])
        joined = joined.reshape(joined.shape[: 1 + len(self.unit_axes)])
        return np.broadcast_to(joined, (4, *self.units))

    def _axis(self, place: int) -> Axis:
        units, law, size = self._units(place), self._value.reaches[place].law, self.input_size[place]
        firsts, lasts = -units[0], units[1]
        reading = lasts >= firsts
        if not reading.any():
            return Axis(0, None, None, None, True, False)
        longest = int((lasts - firsts)[reading].max()) + 1
        whole = bool(np.all((firsts == 0) & (lasts == size - 1)))
        if law.axis not in self.unit_axes or (whole and not law.shift):
            return Axis(longest, None, None, None, bool(np.all((lasts - firsts + 1)[reading] == longest)), whole)
        along = self.unit_axes.index(law.axis)
        others = tuple(axis + 1 for axis in range(len(self.units)) if axis != along)
        line = units.max(others)
        even = bool(
            np.all(line.reshape([4] + [-1 if a == along else 1 for a in range(len(self.units))])[2:] == units[2:])
        )
        if law.period and np.isfinite(line[2, 0]):
            sizes = line[3] + line[2] + 1
            stride, start = Fraction(law.shift, law.period), -line[2, 0]
            even &= bool(np.all(sizes == sizes[0]))
            return _described(int(sizes.max()), stride, start, start + (sizes[0] - 1) / 2, even, whole)
        found = _middle(-line[0], line[1], size)
        if found is None:
            return Axis(longest, None, None, None, False, whole)
        return _described(*found, False, whole)


def _interval(pair: np.ndarray) -> Interval | None:
    first, last = -pair[0], pair[1]
    return None if last < first else (int(first), int(last))


def _described(size: int, stride: Fraction, start: float, centre: float, uniform: bool, whole: bool) -> Axis:
    plain = int(stride) if stride.denominator == 1 else float(stride)
    return Axis(size, plain, int(-start), float(centre), uniform, whole)


def _middle(firsts: np.ndarray, lasts: np.ndarray, pixels: int) -> tuple[int, Fraction, int, float] | None:
    """Find the units in the middle that repeat themselves evenly, where there is no law.

    Those must be half of all units and nearly all that no border can have cut. Where units go back and forth, as those
    of a permutation do, they must also repeat themselves more often than by coincidence.
    """
    ways = np.sign(np.diff(firsts[np.isfinite(firsts)]))
    periods, more = (_LEAST_PERIODS, 4) if -1 in ways and 1 in ways else (2, 2)
    count, inside = len(firsts), (firsts > 0) & (lasts < pixels - 1) & (lasts >= firsts)
    for period in range(1, min(_LONGEST_PERIOD, count // 2) + 1):
        with np.errstate(invalid="ignore"):  # units that read nothing are infinitely far away
            steps, same = firsts[period:] - firsts[:-period], lasts[period:] - lasts[:-period]
        for step in sorted({int(s) for s in steps[steps == same] if np.isfinite(s) and s}):
            runs = np.flatnonzero(np.diff(np.concatenate([[0], (steps == step) & (same == step), [0]])))
            begin, end = max(zip(runs[::2], runs[1::2]), key=lambda run: run[1] - run[0])
            end += period
            often = end - begin >= max(periods * period, period + more, count / 2)
            if often and inside[begin:end].sum() >= _NEARLY_ALL * inside.sum():
                sizes = lasts[begin:end] - firsts[begin:end] + 1
                stride = Fraction(step, period)
                turns, place = divmod(-begin, period)
                start = firsts[begin + place] + turns * step
                return int(sizes.max()), stride, int(start), float(start + (sizes[place] - 1) / 2)
    return None
