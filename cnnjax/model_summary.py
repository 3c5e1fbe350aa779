"""The table of a model: what each layer gives, holds, costs and sees, found by tracing alone.

It is `cnnjax.summary`; the module's name is another, because importing a module of that name would hide the function.
"""

import dataclasses
import functools
import html
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend import core
from jax.interpreters import ad, batching

from cnnjax import jax_versions
from cnnjax.jaxpr import Step, walk
from cnnjax.modes import train_kwargs
from cnnjax.receptive_field import ReceptiveField
from cnnjax.receptive_field.analysis import fields_of
from cnnjax.receptive_field.rules import RULES, each_for_itself

Shape = tuple[int, ...]
_CALL = "cnnjax_call:"


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

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def summary(model: nn.Module, input_shape: tuple[int, int, int]) -> Summary:
    """Return the table of any linen module's layers, in evaluation mode; nothing is computed or allocated.

    A row is one call of a module that calls no other (a convolution, a pool, a dense layer) or that holds parameters or
    multiplies matrices itself; a layer that is called twice, or in each step of a scan, has a row for each. What
    changes nothing in evaluation, such as dropout, has none. Multiply-accumulates are counted in the jaxpr, so they are
    right for any function: convolutions and matrix products, additions of biases and normalisation not among them.

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
    # Without jit, which would trace two modules of one class once, and scans one step: every call is then seen.
    with nn.intercept_methods(functools.partial(_record, calls)), jax.disable_jit():
        closed = jax.make_jaxpr(functools.partial(model.apply, **in_mode))(variables, images)
    rows = tuple(_rows(calls, variables.get("params", {}), closed))
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


# The identity, which marks in a jaxpr what a call of a module gives, with the axes that transformations add.
_end_p = core.Primitive("cnnjax_call_end")
_end_p.multiple_results = True
_end_p.def_impl(lambda *arrays, call: list(arrays))
_end_p.def_abstract_eval(lambda *arrays, call: list(arrays))
ad.deflinear2(_end_p, lambda cotangents, *arrays, call: _end_p.bind(*map(ad.instantiate_zeros, cotangents), call=call))
batching.primitive_batchers[_end_p] = lambda arrays, dims, *, call: (_end_p.bind(*arrays, call=call), dims)
RULES[_end_p.name] = each_for_itself


@dataclasses.dataclass(frozen=True)
class _Call:
    """One call of a module: its path, its class and the shape of what came out."""

    path: tuple[str, ...]
    kind: str
    shape: Shape


def _record(calls: list[_Call], call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    if context.method_name != "__call__":
        return call(*args, **kwargs)
    number = len(calls)
    calls.append(_Call(tuple(context.module.path), type(context.module).__name__, ()))
    with jax.named_scope(f"{_CALL}{number}"):
        leaves, structure = jax.tree.flatten(call(*args, **kwargs))
        places = [place for place, leaf in enumerate(leaves) if hasattr(leaf, "shape")]
        if places:
            calls[number] = dataclasses.replace(calls[number], shape=tuple(leaves[places[0]].shape[1:]))
            for place, leaf in zip(places, _end_p.bind(*(leaves[place] for place in places), call=number)):
                leaves[place] = leaf
    return jax.tree.unflatten(structure, leaves)


def _rows(calls: list[_Call], params: Mapping[str, Any], closed: Any) -> Iterator[Row]:
    """Yield a row for each call that is a layer, in the order in which the calls ended."""
    parents = {call.path[:length] for call in calls for length in range(len(call.path))}
    steps: dict[int, list[Step]] = defaultdict(list)
    fields = fields_of(closed, lambda eqn: jax_versions.params(eqn)["call"] if eqn.primitive is _end_p else None)
    seen: set[tuple[str, ...]] = set()
    for step in walk(closed):
        if step.eqn.primitive is not _end_p:
            steps[_owner(step.path)].append(step)
            continue
        number = jax_versions.params(step.eqn)["call"]
        call, inside = calls[number], steps.pop(number, [])
        again = call.path in seen
        seen.add(call.path)
        arrays: list[Any] = [out.aval for out in step.eqn.outvars]
        own, macs = _own_params(params, call.path), sum(each.macs for each in inside)
        if own or macs or (call.path not in parents and inside):
            yield Row(
                path="/".join(call.path),
                kind=call.kind,
                output_shape=call.shape,
                params=0 if again else own,
                macs=macs,
                activation_bytes=step.times * sum(array.size * array.dtype.itemsize for array in arrays),
                receptive_field=_size(fields.get(number)) if len(call.shape) == 3 else None,
            )


def _size(field: ReceptiveField | None) -> tuple[int, int] | None:
    if field is None or len(field.size) != 2 or any(field.is_global):
        return None
    return field.size[0], field.size[1]


def _owner(scopes: tuple[str, ...]) -> int:
    """Return the number of the innermost call that an equation with these scopes belongs to."""
    return next((int(scope.removeprefix(_CALL)) for scope in reversed(scopes) if scope.startswith(_CALL)), 0)


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
