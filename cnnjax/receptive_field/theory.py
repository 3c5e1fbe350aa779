"""The exact receptive field of any JAX function, read off its jaxpr."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax import jaxpr
from cnnjax.errors import UsageError, unknown
from cnnjax.receptive_field.field import ReceptiveField
from cnnjax.receptive_field.interpret import Interpreter, Record
from cnnjax.receptive_field.labels import kind
from cnnjax.receptive_field.reach import of_input
from cnnjax.receptive_field.value import Value


@dataclass(frozen=True)
class Layer:
    """Say of one step that changes what is read, or costs arithmetic, what comes out of it.

    Args:
      path: Linen's scopes, joined by `/`; the model's own name comes first.
      kind: What it is, in words.
      output_shape: Shape of its output.
      field: What that reads of the image.
    """

    path: str
    kind: str
    output_shape: tuple[int, ...]
    field: ReceptiveField


def receptive_field(
    fn_or_model: Callable | nn.Module,
    input_shape: Sequence[int],
    output: int | str | None = None,
    spatial_axes: Sequence[int] = (1, 2),
) -> ReceptiveField:
    """Return which input pixels the units of a value read, exactly, without running anything.

    Args:
      fn_or_model: A function of one array, or a linen module, which is applied with `train=False`. Methods of NNX and
        Equinox modules are functions.
      input_shape: Shape of the input; of a module's, the batch axis may be left out.
      output: Which value: None for the last on the way to the output that still has the image's axes (of a
        classifier, its last feature map); an integer for that one of the function's outputs; a name for the last value
        made in that linen scope, such as `"VGG/conv3_1"` or its end, `"conv3_1"`.
      spatial_axes: Axes of the input that are the image's.
    Returns:
      Size, stride, padding and centre along each axis, and `interval` for any unit.
    Raises:
      ValueError: If the shape does not fit, the function can't be traced, or its output depends on nothing.
      UsageError: If there is no such output.
    References:
      Araujo et al., 2019, https://distill.pub/2019/computing-receptive-fields.
    Example:
      >>> field = receptive_field(nn.Sequential([nn.Conv(8, (3, 3)), nn.Conv(8, (3, 3), strides=2)]), (32, 32, 3))
      >>> field.size, field.stride, field.interval((0, 0)), field.interval((5, 5))
      ((5, 5), (2, 2), ((0, 3), (0, 3)), ((9, 13), (9, 13)))
    """
    return _Analysis(*traced(fn_or_model, input_shape, spatial_axes)).field(output)


def trace(
    fn_or_model: Callable | nn.Module, input_shape: Sequence[int], spatial_axes: Sequence[int] = (1, 2)
) -> list[Layer]:
    """Return the receptive field after each step that has one of its own, in the order of execution.

    Args:
      fn_or_model: As for `receptive_field`.
      input_shape: As for `receptive_field`.
      spatial_axes: As for `receptive_field`.
    Returns:
      A row for every convolution, pool, matrix product, reduction over space, resize, concatenation and loop; what
      works element by element has none.
    Example:
      >>> for layer in trace(nn.Sequential([nn.Conv(8, (3, 3)), nn.relu, nn.Conv(8, (5, 5))]), (32, 32, 3)):
      ...     print(layer.path, layer.kind, layer.field.size)
      Sequential/layers_0 convolution 3x3 (3, 3)
      Sequential/layers_2 convolution 5x5 (7, 7)
    """
    return _Analysis(*traced(fn_or_model, input_shape, spatial_axes)).layers()


def trace_jaxpr(closed: Any, spatial_axes: Sequence[int] = (1, 2)) -> list[Layer]:
    """Do what `trace` does for a jaxpr whose last input is the image; the others are parameters."""
    return _Analysis(closed, (), tuple(spatial_axes)).layers()


def traced(fn_or_model: Any, input_shape: Sequence[int], spatial_axes: Sequence[int]) -> tuple[Any, tuple, tuple]:
    """Trace a function or a module, from shapes alone.

    Returns:
      The closed jaxpr, whose last input is the image; which of its outputs are a module's parameters; the axes.
    """
    shape = tuple(int(size) for size in input_shape)
    is_module = isinstance(fn_or_model, nn.Module)
    if is_module and len(shape) == 3 and tuple(spatial_axes) == (1, 2):
        shape = (1, *shape)
    axes = _checked(shape, spatial_axes)
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    if not callable(fn_or_model):
        raise TypeError(
            f"receptive_field: expected a function or a linen module, got {type(fn_or_model).__name__}. "
            "Give a function of one array."
        )
    try:
        if not is_module:
            return jax.make_jaxpr(fn_or_model)(image), (), axes
        # One trace gives parameters and output; tracing `init` and `apply` by themselves takes twice as long.
        keys = {name: jax.random.key(0) for name in ("params", "dropout")}
        mode: dict[str, Any] = (
            {"train": False} if "train" in inspect.signature(type(fn_or_model).__call__).parameters else {}
        )
        closed, out = jax.make_jaxpr(lambda keys, x: fn_or_model.init_with_output(keys, x, **mode), return_shape=True)(
            keys, image
        )
    except (UsageError, KeyboardInterrupt):
        raise
    except Exception as error:
        name = type(fn_or_model).__name__ if is_module else getattr(fn_or_model, "__name__", "the function")
        hint = " Give the batch axis too: (1, H, W, C)." if len(shape) == 3 else ""
        raise ValueError(
            f"receptive_field: expected {name} to take an input of shape {shape}, "
            f"got {type(error).__name__}: {str(error).rstrip('.')}.{hint}"
        ) from error
    outputs = len(jax.tree.leaves(out[0]))
    return closed, (False,) * outputs + (True,) * (len(closed.jaxpr.outvars) - outputs), axes


def _checked(shape: tuple[int, ...], spatial_axes: Sequence[int]) -> tuple[int, ...]:
    axes = tuple(axis % len(shape) if shape and -len(shape) <= axis < len(shape) else -1 for axis in spatial_axes)
    if not axes or -1 in axes or len(set(axes)) < len(axes):
        hint = " Give the batch axis too: (1, H, W, C)." if len(shape) == 2 else ""
        raise ValueError(
            f"receptive_field: expected spatial axes of an input of shape {shape}, got {tuple(spatial_axes)}. "
            f"Name each axis once, from 0 to {len(shape) - 1}.{hint}"
        )
    if not all(size > 0 for size in shape):
        raise ValueError(
            f"receptive_field: expected an input with pixels, got shape {shape}. Make every size at least 1."
        )
    return axes


class _Analysis:
    """What every value on the way to a traced function's output reads."""

    def __init__(self, closed: Any, opaque: tuple[bool, ...], axes: tuple[int, ...]):
        variables = closed.jaxpr.invars
        shape = jaxpr.shape(variables[-1])
        inputs = [Value(jaxpr.shape(var)) for var in variables[:-1]]
        image = Value(shape, tuple(of_input(shape, axis) for axis in axes))
        interpreter = Interpreter()
        hidden = opaque or (False,) * len(closed.jaxpr.outvars)
        self.outputs = [
            value
            for value, hide in zip(
                interpreter.run(closed, [*inputs, image], wanted=[not hide for hide in hidden], opaque=hidden), hidden
            )
            if not hide
        ]
        self.image, self.axes, self.records = image, axes, interpreter.records
        self.sizes = tuple(shape[axis] for axis in axes)

    def layers(self) -> list[Layer]:
        rows = []
        for record in self.records:
            name = kind(record.eqn)
            result = next((value for value in record.results if value.reads), None)
            if name is not None and result is not None:
                path = "/".join(record.path)
                rows.append(Layer(path, name, result.shape, self._field(_name(record), result)))
        return rows

    def field(self, output: int | str | None) -> ReceptiveField:
        if isinstance(output, str):
            return self._named(output)
        if output is not None:
            if not -len(self.outputs) <= output < len(self.outputs):
                raise UsageError(
                    f"receptive_field: expected output 0 to {len(self.outputs) - 1}, got {output}. "
                    "Name one of the function's outputs."
                )
            value = self.outputs[output]
            self._check_reads(value)
            return self._field(f"output {output}", value)
        if not any(value.reads for value in self.outputs):
            self._check_reads(Value(self.outputs[0].shape if self.outputs else ()))
        record, last = self._last()
        if len(self.outputs) == 1:
            own = self.outputs[0]
            if self._has_axes(own) or not own.notes.issubset(last.notes) or self._seems_an_image(own):
                return self._field("output", own)
        return self._field(_name(record) if record else "input", last)

    def _last(self) -> tuple[Record | None, Value]:
        for record in reversed(self.records):
            for value in record.results:
                if value.reads and self._has_axes(value):
                    return record, value
        return None, self.image

    def _named(self, name: str) -> ReceptiveField:
        wanted = tuple(name.strip("/").split("/"))
        for record in reversed(self.records):
            places = range(len(record.path) - len(wanted) + 1)
            if any(record.path[i : i + len(wanted)] == wanted for i in places):
                return self._field(name, next(value for value in record.results if value.reads))
        names = {"/".join(record.path) for record in self.records} - {""}
        if not names:
            raise UsageError(
                f"receptive_field: expected a named scope for output {name!r}, got a function without any. "
                "Wrap its parts in jax.named_scope, or count its outputs."
            )
        raise unknown("layer", name, names)

    def _has_axes(self, value: Value) -> bool:
        axes = [reach.axis for reach in value.reaches]
        return len(value.shape) >= len(self.image.shape) and None not in axes and len(set(axes)) == len(axes)

    def _seems_an_image(self, value: Value) -> bool:
        # As many axes as the input and more than one unit: not a classifier's, whatever was lost track of.
        same_rank = len(value.shape) == len(self.image.shape)
        return same_rank and any(value.shape[axis] > 1 for axis in self.axes)

    def _field(self, name: str, value: Value) -> ReceptiveField:
        known = {reach.axis for reach in value.reaches} - {None}
        units = tuple(sorted(axis for axis in known if axis is not None))
        if len(units) < len(self.axes) and self._seems_an_image(value):
            units = tuple(sorted(self.axes))
        return ReceptiveField(name, value.shape, self.sizes, value, units)

    def _check_reads(self, value: Value) -> None:
        if not value.reads:
            raise ValueError(
                f"receptive_field: expected an output that depends on the input, got one of shape {value.shape} that "
                "reads nothing of it. Give a function of its argument."
            )


def _name(record: Record) -> str:
    return "/".join(record.path) or kind(record.eqn) or record.eqn.primitive.name
