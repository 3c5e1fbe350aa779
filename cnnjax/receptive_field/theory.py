"""The exact receptive field of any JAX function, read off its jaxpr."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flax import linen as nn

from cnnjax.receptive_field.analysis import Analysis, name_of
from cnnjax.receptive_field.field import ReceptiveField
from cnnjax.receptive_field.labels import kind
from cnnjax.receptive_field.tracing import Traced, traced


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

    Numbers that a function fixes itself count as they are: a mask, an interpolation's matrix, which branch is taken.
    A module's parameters and a convolution's kernel may become any, so that everything they multiply is read.

    Args:
      fn_or_model: A function of one array, or a module: a linen one is applied with `train=False` where it knows that
        word, an NNX or Equinox one is copied into evaluation mode. Their methods are functions, taken as they are.
      input_shape: Shape of the input; of a module's, the batch axis may be left out.
      output: Which value: None for the last on the way to the output that still has the image's axes (of a
        classifier, its last feature map), or, if no layer gives such, the output; an integer for that one of the
        function's outputs; a name for the last value made in that linen scope, such as `"VGG/conv3_1"` or its end,
        `"conv3_1"`.
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
    return Analysis(traced(fn_or_model, input_shape, spatial_axes)).field(output)


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
      works element by element has none. A loop has one row for all its steps, and so has a stack that `nn.scan` makes:
      its layers are one body, with one name. Write them out to have a row for each.
    Example:
      >>> for layer in trace(nn.Sequential([nn.Conv(8, (3, 3)), nn.relu, nn.Conv(8, (5, 5))]), (32, 32, 3)):
      ...     print(layer.path, layer.kind, layer.field.size)
      Sequential/layers_0 convolution 3x3 (3, 3)
      Sequential/layers_2 convolution 5x5 (7, 7)
    """
    return _rows(Analysis(traced(fn_or_model, input_shape, spatial_axes)))


def trace_jaxpr(closed: Any, spatial_axes: Sequence[int] = (1, 2)) -> list[Layer]:
    """Do what `trace` does for a jaxpr whose last input is the image; the others are parameters."""
    return _rows(Analysis(Traced(closed, tuple(spatial_axes))))


def _rows(analysis: Analysis) -> list[Layer]:
    rows = []
    for record in analysis.records:
        name = kind(record.eqn)
        result = next((value for value in record.results if value.reads), None)
        if name is not None and result is not None:
            rows.append(Layer("/".join(record.path), name, result.shape, analysis.describe(name_of(record), result)))
    return rows
