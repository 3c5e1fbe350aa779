"""The exact receptive field of any JAX function, read off its jaxpr; what stacks of convolutions see and cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.jaxpr import count_macs
from cnnjax.receptive_field.analysis import Analysis, kind, name_of
from cnnjax.receptive_field.field import ReceptiveField
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

    The arguments are those of `receptive_field`.

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


@dataclass(frozen=True)
class Cost:
    """Hold what one of the two sees and costs.

    Args:
      layers: Convolutions, one after another.
      kernel_size: Taps of each along an axis.
      size: Pixels along an axis that one unit reads.
      params: Weights, biases left out.
      macs: Multiply-accumulates of one image.
    """

    layers: int
    kernel_size: int
    size: int
    params: int
    macs: int


@dataclass(frozen=True)
class StackComparison:
    """Compare a stack of convolutions with a single one.

    Args:
      stack: The stack.
      single: The single one.
    """

    stack: Cost
    single: Cost

    @property
    def equal(self) -> bool:
        """Whether both see equally many pixels."""
        return self.stack.size == self.single.size

    def __str__(self) -> str:
        """Say it in three lines."""
        lines = []
        for cost in (self.stack, self.single):
            name = f"{cost.layers} x {cost.kernel_size}x{cost.kernel_size}"
            seen = f"sees {cost.size}x{cost.size}"
            lines.append(f"{name:<10} {seen:<14} {cost.params:>12,} weights {cost.macs:>16,} MACs")
        ratio = self.stack.params / self.single.params
        word = "the same field" if self.equal else "another field"
        return "\n".join(
            [*lines, f"{word}, {ratio:.0%} of the weights, {self.stack.macs / self.single.macs:.0%} of the MACs"]
        )


def compare_stacks(
    layers: int,
    kernel_size: int = 3,
    *,
    single: int | None = None,
    features: int = 64,
    image_size: int = 56,
) -> StackComparison:
    """Compare a stack of `layers` k x k convolutions with a single K x K one, all of stride 1 and SAME padding.

    Args:
      layers: Convolutions of the stack.
      kernel_size: Their taps along an axis, k.
      single: The single one's taps, K; None for as many as the stack sees: `layers * (k - 1) + 1`.
      features: Channels in and out of every convolution.
      image_size: Pixels of the square image.
    Returns:
      What each sees, read off its jaxpr, and costs; `print` shows it.
    Raises:
      ValueError: If a number is below 1.
    References:
      Simonyan and Zisserman, 2014, https://arxiv.org/abs/1409.1556, section 2.3.
    Example:
      >>> print(compare_stacks(2, 3))
      2 x 3x3    sees 5x5             73,728 weights      231,211,008 MACs
      1 x 5x5    sees 5x5            102,400 weights      321,126,400 MACs
      the same field, 72% of the weights, 72% of the MACs
    """
    single = layers * (kernel_size - 1) + 1 if single is None else single
    for name, value in {
        "layers": layers,
        "kernel_size": kernel_size,
        "single": single,
        "features": features,
        "image_size": image_size,
    }.items():
        if value < 1:
            raise ValueError(f"compare_stacks: expected {name} of at least 1, got {value}. Give a positive integer.")
    return StackComparison(_cost(layers, kernel_size, features, image_size), _cost(1, single, features, image_size))


def _cost(layers: int, kernel: int, features: int, size: int) -> Cost:
    model = nn.Sequential([nn.Conv(features, (kernel, kernel), use_bias=False) for _ in range(layers)])
    image = jax.ShapeDtypeStruct((1, size, size, features), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    params = sum(leaf.size for leaf in jax.tree.leaves(variables))
    seen = receptive_field(model, image.shape).size[0]
    return Cost(layers, kernel, seen, params, count_macs(model.apply, variables, image))
