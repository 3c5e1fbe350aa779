"""The table of a model: what each layer gives, holds, costs and sees, found by tracing alone.

It is `cnnjax.summary`; the module's name is another, because importing a module of that name would hide the function.
"""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.jaxpr import Step, walk
from cnnjax.modes import train_kwargs
from cnnjax.receptive_field import ReceptiveField
from cnnjax.receptive_field.scopes import fields_by_scope

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """Describe one layer.

    Args:
      path: Names of the modules around it and its own, joined by slashes; empty for what the model itself computes.
      kind: The module's class.
      output_shape: Shape of its output for one example, without the batch axis.
      params: Trainable parameters that it alone holds; 0 where it is called again.
      macs: Multiply-accumulates for one example.
      activation_bytes: Memory of its output for one example.
      receptive_field: Pixels (height, width) that one unit of its output can read; None where that is every pixel or
        the output has no height and width.
    """

    path: str
    kind: str
    output_shape: Shape
    params: int
    macs: int
    activation_bytes: int
    receptive_field: tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class Summary:
    """Hold a model's rows and totals; `print` shows a table.

    Args:
      model: The model's class.
      input_shape: `(H, W, C)` of the image that the rows are for.
      rows: A row a layer, in the order of execution.
      params: Trainable parameters.
      statistics: Numbers that training updates without a gradient, such as running means.
      macs: Multiply-accumulates of one example.
      activation_bytes: Memory of all rows' outputs for one example.
    """

    model: str
    input_shape: tuple[int, int, int]
    rows: tuple[Row, ...]
    params: int
    statistics: int
    macs: int
    activation_bytes: int

    @property
    def totals(self) -> dict[str, int]:
        """The sums over the model."""
        names = ("params", "statistics", "macs", "activation_bytes")
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        heading = ("path", "kind", "output", "parameters", "MACs", "memory", "field")
        total = ("total", "", "", f"{self.params:,}", f"{self.macs:,}", _bytes(self.activation_bytes), "")
        cells = [heading, *map(_cells, self.rows), total]
        widths = [max(map(len, column)) for column in zip(*cells)]
        lines = [
            "  ".join(cell.ljust(w) if place < 3 else cell.rjust(w) for place, (cell, w) in enumerate(zip(row, widths)))
            for row in cells
        ]
        rule = "-" * len(lines[0])
        sizes = "x".join(map(str, self.input_shape))
        notes = f"{self.model} on one {sizes} image: {self.params:,} parameters, {_thousands(self.macs)}MACs"
        if self.statistics:
            notes += f", {self.statistics:,} running statistics beside the parameters"
        return "\n".join(line.rstrip() for line in (lines[0], rule, *lines[1:-1], rule, lines[-1], notes))


def summary(model: nn.Module, input_shape: tuple[int, int, int]) -> Summary:
    """Return the table of any linen module's layers, in evaluation mode; nothing is computed or allocated.

    A row is a call of a module that calls no other (a convolution, a pool, a dense layer) or that holds parameters or
    multiplies matrices itself. What changes nothing in evaluation, such as dropout, has no row. Multiply-accumulates
    are counted in the jaxpr, so they are right for any function: convolutions and matrix products, additions of
    biases and normalisation not among them.

    Args:
      model: Called as `model(x)` or `model(x, train=False)`.
      input_shape: `(H, W, C)` of an image.
    Returns:
      The rows and their totals.
    Raises:
      ValueError: If `input_shape` is not three numbers.
    Example:
      >>> from flax import linen as nn
      >>> summary(nn.Conv(8, (3, 3)), (32, 32, 3)).totals["params"]
      224
    """
    if len(input_shape) != 3:
        raise ValueError(
            f"summary: expected input_shape (H, W, C), got {tuple(input_shape)}. Leave the batch axis out."
        )
    images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    in_mode = train_kwargs(model, train=False)
    variables = jax.eval_shape(functools.partial(model.init, **in_mode), jax.random.key(0), images)
    calls: list[_Call] = []
    with nn.intercept_methods(functools.partial(_record, calls)):
        closed = jax.make_jaxpr(functools.partial(model.apply, **in_mode))(variables, images)
    rows = tuple(_rows(type(model).__name__, calls, variables.get("params", {}), closed))
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in variables.items()}
    params = sizes.pop("params", 0)
    height, width, channels = input_shape
    return Summary(
        model=type(model).__name__,
        input_shape=(height, width, channels),
        rows=rows,
        params=params,
        statistics=sum(sizes.values()),
        macs=sum(step.macs for step in walk(closed)),
        activation_bytes=sum(row.activation_bytes for row in rows),
    )


@dataclasses.dataclass(frozen=True)
class _Call:
    """One call of a module: its path, its class, the shape and bytes of what came out."""

    path: tuple[str, ...]
    kind: str
    shape: Shape
    bytes: int


def _record(calls: list[_Call], call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    output = call(*args, **kwargs)
    if context.method_name == "__call__":
        arrays = [leaf for leaf in jax.tree.leaves(output) if hasattr(leaf, "shape")]
        shape = tuple(arrays[0].shape[1:]) if arrays else ()
        memory = sum(leaf.size * leaf.dtype.itemsize for leaf in arrays)
        calls.append(_Call(tuple(context.module.path), type(context.module).__name__, shape, memory))
    return output


def _rows(model: str, calls: list[_Call], params: Mapping[str, Any], closed: Any) -> Iterator[Row]:
    """Yield a row for each call that is a layer, in the order in which the calls ended."""
    paths = {call.path for call in calls}
    steps: dict[tuple[str, ...], list[Step]] = defaultdict(list)
    for step in walk(closed):
        steps[_owner(step.path, paths)].append(step)
    parents = {path[:length] for path in paths for length in range(len(path))}
    fields = fields_by_scope(closed)
    seen: set[tuple[str, ...]] = set()
    for call in calls:
        again = call.path in seen
        seen.add(call.path)
        own = _own_params(params, call.path)
        macs = sum(step.macs for step in steps[call.path])
        leaf = call.path not in parents
        if not own and not macs and not (leaf and steps[call.path]):
            continue
        runs = sum(other.path == call.path for other in calls)
        yield Row(
            path="/".join(call.path),
            kind=call.kind,
            output_shape=call.shape,
            params=0 if again else own,
            macs=macs // runs,
            activation_bytes=call.bytes,
            receptive_field=_size(fields.get((model, *call.path))) if len(call.shape) == 3 else None,
        )


def _size(field: ReceptiveField | None) -> tuple[int, int] | None:
    if field is None or len(field.size) != 2 or any(field.is_global):
        return None
    return field.size[0], field.size[1]


def _owner(scopes: tuple[str, ...], paths: set[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the innermost module that an equation with these scopes belongs to; the first scope is the model."""
    inner = scopes[1:]
    return next(inner[:length] for length in range(len(inner), -1, -1) if inner[:length] in paths or not length)


def _own_params(params: Mapping[str, Any], path: tuple[str, ...]) -> int:
    """Count the parameters that a module holds itself."""
    for name in path:
        params = params.get(name, {})
    return sum(leaf.size for leaf in params.values() if hasattr(leaf, "size"))


def _cells(row: Row) -> tuple[str, ...]:
    field = row.receptive_field
    return (
        row.path or "(the model)",
        row.kind,
        " x ".join(map(str, row.output_shape)),
        f"{row.params:,}" if row.params else "",
        f"{row.macs:,}" if row.macs else "",
        _bytes(row.activation_bytes),
        "" if field is None else str(field[0]) if field[0] == field[1] else f"{field[0]} x {field[1]}",
    )


def _thousands(number: int) -> str:
    """Return a number with three digits and a prefix: `15.5 G`."""
    for prefix, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {prefix}"
    return f"{number} "


def _bytes(number: int) -> str:
    return f"{number / 2**20:.1f} MiB" if number >= 2**20 else f"{number / 2**10:.1f} KiB"
