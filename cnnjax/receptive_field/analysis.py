"""What every value on the way to a traced function's output reads, and which of them is asked for."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jax.extend import core

from cnnjax import jax_versions, jaxpr
from cnnjax.errors import UsageError, unknown
from cnnjax.receptive_field.field import ReceptiveField
from cnnjax.receptive_field.interpret import Interpreter, Record
from cnnjax.receptive_field.reach import of_input
from cnnjax.receptive_field.tracing import Traced
from cnnjax.receptive_field.value import Value

_PLAIN = {
    "concatenate": "concatenation",
    "cond": "branches",
    "dot_general": "matrix product",
    "fft": "Fourier transform",
    "gather": "gather",
    "reduce_max": "maximum over axes",
    "reduce_sum": "sum over axes",
    "sort": "sort",
    "while": "loop",
}
_POOLS = {"reduce_window_max": "max pool", "reduce_window_min": "min pool", "reduce_window_sum": "sum pool"}


@dataclass(frozen=True)
class Found:
    """Hold a value that was asked for.

    Args:
      name: What to call it.
      value: What it reads.
      record: The equation that makes it; None for the function's own outputs.
      place: Which result of the equation, or which output, it is.
    """

    name: str
    value: Value
    record: Record | None = None
    place: int = 0


class Analysis:
    """Interpret a traced function once, and answer for any of its values."""

    def __init__(self, traced: Traced):
        self.traced, self.axes = traced, traced.axes
        variables, shape = jax_versions.open_jaxpr(traced.closed).invars, traced.input_shape
        count = len(jax_versions.open_jaxpr(traced.closed).outvars)
        own = count if traced.outputs is None else traced.outputs
        inputs = [Value(jaxpr.shape(var)) for var in variables[:-1]]
        self.image = Value(shape, tuple(of_input(shape, axis) for axis in self.axes))
        interpreter = Interpreter()
        marks = [place < own for place in range(count)]
        outputs = interpreter.run(
            traced.closed, [*inputs, self.image], wanted=marks, opaque=[not mark for mark in marks]
        )
        self.outputs, self.records = outputs[:own], interpreter.records
        self.sizes = tuple(shape[axis] for axis in self.axes)

    def field(self, output: int | str | None) -> ReceptiveField:
        """Return the receptive field of the value that is asked for, as `receptive_field` explains."""
        found = self.find(output)
        return self.describe(found.name, found.value)

    def find(self, output: int | str | None) -> Found:
        """Return the value that is asked for."""
        if isinstance(output, str):
            return self._named(output)
        if output is not None:
            return self._output(output)
        if not any(value.reads for value in self.outputs):
            _check_reads(self.outputs[0] if self.outputs else Value(()))
        last = self._last()
        if last is None:
            # Space is given up at once, as by a perceptron: what is left to look at is the output.
            place = next(place for place, value in enumerate(self.outputs) if value.reads)
            return Found("output", self.outputs[place], place=place)
        if len(self.outputs) == 1:
            own = self.outputs[0]
            if self.has_axes(own) or not own.notes.issubset(last.value.notes) or self._seems_an_image(own):
                return Found("output", own, place=0)
        return last

    def _output(self, output: int) -> Found:
        if not -len(self.outputs) <= output < len(self.outputs):
            raise UsageError(
                f"receptive_field: expected output 0 to {len(self.outputs) - 1}, got {output}. "
                "Name one of the function's outputs."
            )
        _check_reads(self.outputs[output])
        return Found(f"output {output}", self.outputs[output], place=output % len(self.outputs))

    def _last(self) -> Found | None:
        # Before the first layer there is nothing but the image, scaled or rearranged at most.
        first = next((place for place, record in enumerate(self.records) if kind(record.eqn)), len(self.records))
        for record in reversed(self.records[first:]):
            for place, value in enumerate(record.results):
                if value.reads and self.has_axes(value):
                    return Found(name_of(record), value, record, place)
        return None

    def _named(self, name: str) -> Found:
        wanted = tuple(name.strip("/").split("/"))
        for record in reversed(self.records):
            places = range(len(record.path) - len(wanted) + 1)
            if any(record.path[i : i + len(wanted)] == wanted for i in places):
                place = next(place for place, value in enumerate(record.results) if value.reads)
                return Found(name, record.results[place], record, place)
        names = {"/".join(record.path) for record in self.records} - {""}
        if not names:
            raise UsageError(
                f"receptive_field: expected a named scope for output {name!r}, got a function without any. "
                "Wrap its parts in jax.named_scope, or count its outputs."
            )
        raise unknown("layer", name, names)

    def has_axes(self, value: Value) -> bool:
        """Say whether a value still has the image's axes, each as one of its own."""
        axes = [reach.axis for reach in value.reaches]
        return len(value.shape) >= len(self.image.shape) and None not in axes and len(set(axes)) == len(axes)

    def _seems_an_image(self, value: Value) -> bool:
        # As many axes as the input and more than one unit: not a classifier's, whatever was lost track of.
        same_rank = len(value.shape) == len(self.image.shape)
        return same_rank and any(value.shape[axis] > 1 for axis in self.axes)

    def describe(self, name: str, value: Value) -> ReceptiveField:
        """Return the receptive field of a value."""
        known = {reach.axis for reach in value.reaches} - {None}
        units = tuple(sorted(axis for axis in known if axis is not None))
        if len(units) < len(self.axes) and len(value.shape) == len(self.image.shape):
            units = tuple(sorted(self.axes))
        return ReceptiveField(name, value.shape, self.sizes, value, units)


def fields_of(
    closed: Any, label: Callable[[Any], Any], spatial_axes: Sequence[int] = (1, 2)
) -> dict[Any, ReceptiveField]:
    """Return what the results of equations read that `label` gives a name, None being none.

    Args:
      closed: A jaxpr whose last input is the image; the others are parameters.
      label: A function of an equation.
      spatial_axes: Axes of the image that are its height and width.
    """
    analysis, fields = Analysis(Traced(closed, tuple(spatial_axes))), {}
    for record in analysis.records:
        name, value = label(record.eqn), next((value for value in record.results if value.reads), None)
        if name is not None and value is not None:
            fields[name] = analysis.describe(name_of(record), value)
    return fields


def name_of(record: Record) -> str:
    """Return the scopes of an equation, or, where there are none, what it is."""
    return "/".join(record.path) or kind(record.eqn) or record.eqn.primitive.name


def _check_reads(value: Value) -> None:
    if not value.reads:
        raise ValueError(
            f"receptive_field: expected an output that depends on the input, got one of shape {value.shape} that "
            "reads nothing of it. Give a function of its argument."
        )


def kind(eqn: core.JaxprEqn) -> str | None:
    """Return what an equation is in words, or None if it works element by element or only moves elements."""
    name, params = eqn.primitive.name, jax_versions.params(eqn)
    if name == "conv_general_dilated":
        dimensions = params["dimension_numbers"]
        taps = [jaxpr.shape(eqn.invars[1])[axis] for axis in dimensions.rhs_spec[2:]]
        up = params["lhs_dilation"]
        word = "transposed convolution" if any(step > 1 for step in up) else "convolution"
        strides = up if any(step > 1 for step in up) else params["window_strides"]
        return _window(word, taps, strides, params["rhs_dilation"], params["feature_group_count"])
    if name in _POOLS:
        moved = [
            place
            for place, (taps, stride) in enumerate(zip(params["window_dimensions"], params["window_strides"]))
            if taps > 1 or stride > 1
        ]
        taps, strides, dilation = (
            [params[key][place] for place in moved]
            for key in ("window_dimensions", "window_strides", "window_dilation")
        )
        return _window(_POOLS[name], taps, strides, dilation, 1) if moved else None
    same = jaxpr.default_branch(eqn) if jaxpr.is_platform_choice(eqn) else jaxpr.meaning(eqn)
    if same is not None:
        words = [kind(step.eqn) for step in jaxpr.walk(same)]
        return next((word for word in reversed(words) if word), None)
    if name == "scan":
        return f"scan of {params['length']} steps"
    return _PLAIN.get(name)


def _window(word: str, taps: Any, strides: Any, dilation: Any, groups: int) -> str:
    words = f"{word} {_times(taps)}"
    if math.prod(strides) > 1:
        words += f" stride {_times(strides)}"
    if math.prod(dilation) > 1:
        words += f" dilation {_times(dilation)}"
    return words + (f" groups {groups}" if groups > 1 else "")


def _times(numbers: Any) -> str:
    return "x".join(str(number) for number in numbers)
