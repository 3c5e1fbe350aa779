"""What is known of a value in a jaxpr: what it reads of the input, and, if it reads nothing, how to compute it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from cnnjax import jaxpr
from cnnjax.receptive_field.reach import Law, Reach, maximum, rearrange, union

# Longer chains of equations than this are not followed to find a constant, nor are larger ones computed.
_LONGEST, _LARGEST = 200, 2**24


@dataclass(frozen=True)
class Note:
    """Say what a reader of a receptive field must know of how it came about.

    Args:
      text: One sentence that names the primitive and the line.
      exact: Whether the receptive field is still what it says, and not merely as large as it can be.
    """

    text: str
    exact: bool = True


class Constant:
    """A value that no input and no parameter changes, computed when it is asked for."""

    def __init__(self, eqn: core.JaxprEqn | None, operands: Sequence["Constant"], place: Any):
        self._eqn, self._operands, self._place = eqn, operands, place
        self._value: Any = None
        self.depth: int = 1 + max((operand.depth for operand in operands), default=0)

    @classmethod
    def given(cls, value: Any) -> "Constant":
        """Return the constant of a value that is there already."""
        return cls(None, (), value)

    def value(self) -> Any:
        """Return the constant, computed once: a number step by step, as loops count, others in one compilation.

        It is NumPy's, save for random keys, which NumPy can't hold.
        """
        if self._value is not None:
            return self._value
        if self._eqn is None:
            value = self._place
        else:
            single = jaxpr.shape(self._eqn.outvars[self._place]) == ()
            with jax.ensure_compile_time_eval():
                value = self._build({}) if single else jax.jit(lambda: self._build({}))()
        dtype = getattr(value, "dtype", None)
        is_key = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.extended)
        self._value = value if is_key else np.asarray(value)
        return self._value

    def row(self, index: int) -> "Constant":
        """Return the constant that is one element along the first axis."""
        with jax.ensure_compile_time_eval():
            return Constant.given(self.value()[index])

    def _build(self, done: dict[Any, Any]) -> Any:
        if self._eqn is None or self._value is not None:
            return self._place if self._value is None else self._value
        # A function that is called twice, or a step of a loop, has the same equations with other operands.
        key = id(self._eqn), *map(id, self._operands)
        if key not in done:
            operands = [operand._build(done) for operand in self._operands]
            # Calls are gone through, so what is left takes its parameters as they are.
            results = self._eqn.primitive.bind(*operands, **self._eqn.params)
            done[key] = results if self._eqn.primitive.multiple_results else [results]
        return done[key][self._place]


@dataclass(frozen=True)
class Value:
    """Say what the elements of a value read.

    Args:
      shape: The value's shape.
      reaches: What is read along each axis of the input; empty where nothing is.
      notes: What to say of it.
      constant: The value itself, where neither input nor parameters enter it.
    """

    shape: tuple[int, ...]
    reaches: tuple[Reach, ...] = ()
    notes: frozenset[Note] = field(default=frozenset())
    constant: Constant | None = None

    @property
    def reads(self) -> bool:
        """Say whether it reads anything of the input."""
        return bool(self.reaches)

    def noting(self, *notes: Note) -> "Value":
        """Return it with more to say."""
        return replace(self, notes=self.notes | frozenset(notes))

    def reads_like(self, other: "Value") -> bool:
        """Say whether both read the same, as far as the image goes."""
        pairs = zip(self.reaches, other.reaches)
        return self.reads == other.reads and all(np.all(a.reads[:2] == b.reads[:2]) for a, b in pairs)

    def same(self, other: "Value") -> bool:
        """Say whether nothing is known of one that is not known of the other."""
        pairs = zip(self.reaches, other.reaches)
        alike = self.reads == other.reads and self.notes == other.notes and all(a.same(b) for a, b in pairs)
        return alike and _same_number(self.constant, other.constant)


def _same_number(one: Constant | None, other: Constant | None) -> bool:
    if one is None or other is None or one is other:
        return one is other
    return one.depth == 1 == other.depth and bool(np.array_equal(one.value(), other.value()))


def computed(eqn: core.JaxprEqn, operands: Sequence[Value], shapes: Sequence[tuple[int, ...]]) -> list[Value]:
    """Return the results of an equation none of whose operands reads anything."""
    constants = [operand.constant for operand in operands]
    known = [constant for constant in constants if constant is not None]
    if (
        len(known) < len(constants)
        or eqn.effects
        or max((constant.depth for constant in known), default=0) >= _LONGEST
        or any(np.prod(shape) > _LARGEST for shape in shapes)
        or eqn.primitive.name in ("platform_index", "cond")
    ):
        return [Value(shape) for shape in shapes]
    return [Value(shape, constant=Constant(eqn, known, i)) for i, shape in enumerate(shapes)]


def joined(values: Sequence[Value]) -> Value:
    """Return a value that reads, element by element, what any of several does."""
    real = [value for value in values if value.reads]
    notes = frozenset().union(*(value.notes for value in values))
    if not real:
        return replace(values[0], notes=notes, constant=values[0].constant if len(values) == 1 else None)
    columns = list(zip(*(value.reaches for value in real)))
    return Value(values[0].shape, tuple(_union(column, values[0].shape) for column in columns), notes)


def _union(reaches: Sequence[Reach], shape: tuple[int, ...]) -> Reach:
    whole = union(reaches)
    # One unit that joins all of an axis, and something of which one element along it was cut out: an axis no more.
    gone = whole.axis is not None and shape[whole.axis] == 1 and any(reach.axis is None for reach in reaches)
    return Reach(whole.reads) if gone else whole


def everything(values: Sequence[Value], shape: tuple[int, ...], *notes: Note) -> Value:
    """Return a value each element of which reads all that any element of several does."""
    wholes = []
    for value in values:
        if value.reads:
            # A result of the operand's rank has, as far as anyone can tell, the operand's axes.
            axes = [reach.axis if len(shape) == len(value.shape) else None for reach in value.reaches]
            reads = [
                maximum(reach, range(len(value.shape))).reads.reshape([4] + [1] * len(shape)) for reach in value.reaches
            ]
            wholes.append(Value(shape, tuple(map(Reach, reads, map(Law, axes))), value.notes))
    return joined(wholes).noting(*notes) if wholes else Value(shape)


def spatial_hull(value: Value) -> Value:
    """Return the value with all its axes joined that no axis of the input runs along, such as channels."""
    own = {reach.axis for reach in value.reaches}
    rest = [axis for axis in range(len(value.shape)) if axis not in own]
    return replace(value, reaches=tuple(maximum(reach, rest, keep=True) for reach in value.reaches))


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
