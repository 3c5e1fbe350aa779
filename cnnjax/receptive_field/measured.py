"""The effective receptive field: how much each pixel that a unit reads matters to it, measured by gradients."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.extend import core

from cnnjax import jax_versions
from cnnjax.errors import UsageError, unknown
from cnnjax.receptive_field.analysis import Analysis, Found, kind, name_of
from cnnjax.receptive_field.field import ReceptiveField
from cnnjax.receptive_field.gaussian import GaussianFit, effective_size, fit_gaussian
from cnnjax.receptive_field.nan_probe import compiled
from cnnjax.receptive_field.tracing import STREAMS, traced

_STATISTICS = {"absolute": jnp.abs, "square": jnp.square, "signed": lambda x: x}


@dataclass(frozen=True)
class Growth:
    """Compare the theoretical and the effective field after one layer.

    Args:
      path: Scopes of the layer, joined by `/`.
      kind: What it is.
      theoretical: What its middle unit reads, in pixels along each axis, if the image is large enough.
      effective: Pixels along each axis that hold 95.45 % of the gradient.
      fit: The Gaussian fitted to it.
    """

    path: str
    kind: str
    theoretical: tuple[int, ...]
    effective: tuple[float, float]
    fit: GaussianFit


def measure(
    fn_or_model: Callable | nn.Module,
    input_shape: Sequence[int],
    *,
    unit: str | Sequence[int] = "center",
    samples: int = 16,
    key: Any = None,
    output: int | str | None = None,
    variables: Any = None,
    images: Any = None,
    statistic: str = "absolute",
    spatial_axes: Sequence[int] = (1, 2),
) -> np.ndarray:
    """Return how strongly a unit depends on each pixel: the mean of its gradient's size over samples.

    All channels of the unit count, each sample weighting them at random. What is not read has exactly 0; what is read
    may have it too, where a maximum or a ReLU passes it over.

    Args:
      fn_or_model: A function of one array, or a linen module.
      input_shape: As for `receptive_field`.
      unit: The unit's place along the spatial axes, or `"center"`.
      samples: How many gradients to average.
      key: Random key of inputs, channel weights and fresh parameters.
      output: Which value, as for `receptive_field`.
      variables: A module's variables, such as trained ones; None draws fresh parameters for every sample.
      images: Inputs `[S, ...]` to take in turn; None draws normal noise for every sample.
      statistic: `absolute` for the mean of |g|, `square` for that of g², `signed` for g itself.
      spatial_axes: As for `receptive_field`.
    Returns:
      A map `[H, W]`, float64, whose sum is 1 (of `signed`, whose absolute values sum to 1).
    Raises:
      ValueError: If the gradient is 0 everywhere or not finite.
      UsageError: If there is no such unit or statistic, or a function is given a module's variables.
    References:
      Luo et al., 2016, https://arxiv.org/abs/1701.04128.
    Example:
      >>> heat = measure(nn.Conv(8, (3, 3)), (9, 9, 1), samples=2)
      >>> heat.shape, int((heat > 0).sum())
      ((9, 9), 9)
    """
    if statistic not in _STATISTICS:
        raise unknown("statistic", statistic, _STATISTICS)
    if samples < 1:
        raise UsageError(f"measure: expected at least 1 sample, got {samples}.")
    _check_takes(fn_or_model, variables)
    analysis = Analysis(traced(fn_or_model, input_shape, spatial_axes, variables))
    found = analysis.find(output)
    field = analysis.describe(found.name, found.value)
    sources = _Sources(fn_or_model, analysis, variables, images)
    return _averaged(_function_of(analysis, found), field, sources, unit, samples, key, statistic)


def growth(
    fn_or_model: Callable | nn.Module,
    input_shape: Sequence[int],
    *,
    samples: int = 16,
    key: Any = None,
    variables: Any = None,
    images: Any = None,
    spatial_axes: Sequence[int] = (1, 2),
) -> list[Growth]:
    """Measure the middle unit after every convolution and pool; the arguments are those of `measure`.

    Returns:
      A row a layer that still has the image's axes.
    """
    _check_takes(fn_or_model, variables)
    analysis = Analysis(traced(fn_or_model, input_shape, spatial_axes, variables))
    sources = _Sources(fn_or_model, analysis, variables, images)
    rows = []
    for record in analysis.records:
        name, value = kind(record.eqn), record.results[0]
        if name is None or not value.reads or not analysis.has_axes(value):
            continue
        field = analysis.describe(name_of(record), value)
        function = _function_of(analysis, Found(field.name, value, record, 0))
        heat = _averaged(function, field, sources, "center", samples, key, "absolute")
        rows.append(Growth("/".join(record.path), name, field.size, effective_size(heat), fit_gaussian(heat)))
    return rows


def _check_takes(fn_or_model: Any, variables: Any) -> None:
    if variables is not None and not isinstance(fn_or_model, nn.Module):
        name = getattr(fn_or_model, "__name__", type(fn_or_model).__name__)
        raise UsageError(
            f"measure: expected a linen module for variables, got {name}, which takes none. Leave variables out."
        )


class _Sources:
    """Where each sample's parameters and image come from."""

    def __init__(self, fn_or_model: Any, analysis: Analysis, variables: Any, images: Any):
        self.axes, self.shape = analysis.axes, analysis.traced.input_shape
        self._fresh = isinstance(fn_or_model, nn.Module) and variables is None
        self._leaves = list(analysis.traced.held) if variables is None else jax.tree.leaves(variables)
        self._images = None if images is None else jnp.asarray(images, jnp.float32)
        if self._images is not None and (self._images.shape[1:] != self.shape[1:] or not len(self._images)):
            raise UsageError(
                f"measure: expected images of shape (S, {', '.join(map(str, self.shape[1:]))}), "
                f"got {self._images.shape}. Resize them."
            )

    def draw(self, key: Any, sample: int) -> tuple[list[Any], Any]:
        """Return what comes before the image among the traced function's inputs, and the image."""
        parameters, noise = jax.random.split(jax.random.fold_in(key, 0))
        leaves = jax.tree.leaves(dict.fromkeys(STREAMS, parameters)) if self._fresh else self._leaves
        if self._images is None:
            return leaves, jax.random.normal(noise, self.shape)
        picked = self._images[sample % len(self._images)]
        return leaves, jnp.broadcast_to(picked, self.shape)


def _averaged(
    function: Callable,
    field: ReceptiveField,
    sources: _Sources,
    unit: str | Sequence[int],
    samples: int,
    key: Any,
    statistic: str,
) -> np.ndarray:
    key = jax.random.key(0) if key is None else key
    place = _place(field, unit)
    others = tuple(axis for axis in range(len(sources.shape)) if axis not in sources.axes)

    @compiled
    def influence(leaves: list[Any], image: jax.Array, weights_key: Any) -> jax.Array:
        def unit_value(image: jax.Array) -> jax.Array:
            picked = function(*leaves, image)[place]
            return jnp.sum(picked * jax.random.normal(weights_key, picked.shape))

        return _STATISTICS[statistic](jax.grad(unit_value)(image)).sum(others)

    total = np.zeros([sources.shape[axis] for axis in sources.axes])
    for sample in range(samples):
        sample_key = jax.random.fold_in(key, sample)
        leaves, image = sources.draw(sample_key, sample)
        total += np.asarray(influence(leaves, image, jax.random.fold_in(sample_key, 1)), float)
    mass = np.abs(total).sum()
    if not np.isfinite(mass) or mass == 0:
        what = "zero everywhere" if mass == 0 else "not finite"
        raise ValueError(
            f"measure: expected a gradient of {field.name}, got one that is {what}. Take another unit or other inputs."
        )
    return total / mass


def _place(field: ReceptiveField, unit: str | Sequence[int]) -> tuple[Any, ...]:
    units = field.units
    if isinstance(unit, str):
        if unit != "center":
            raise UsageError(f'measure: expected unit "center" or its place, got {unit!r}.')
        unit = [count // 2 for count in units]
    try:
        unit = tuple(operator.index(i) for i in unit)
    except TypeError:
        raise UsageError(f"measure: expected a unit's place in whole numbers, got {unit!r}.") from None
    if len(unit) != len(units) or not all(-count <= i < count for i, count in zip(unit, units)):
        raise UsageError(f"measure: expected a unit of {field.name} within {units}, got {tuple(unit)}.")
    chosen = dict(zip(field.unit_axes, unit))
    return tuple(chosen.get(axis, slice(None)) for axis in range(len(field.output_shape)))


def _function_of(analysis: Analysis, found: Found) -> Callable:
    """Return the function of the traced jaxpr's inputs that computes a value, and nothing that it does not need."""
    closed = analysis.traced.closed
    if found.record is None:
        return _cut(
            closed, len(jax_versions.open_jaxpr(closed).eqns), [jax_versions.open_jaxpr(closed).outvars[found.place]]
        )
    return _computing(closed, found.record.position, found.place)[0]


def _computing(closed: Any, position: Sequence[int], place: int) -> tuple[Callable, int | None]:
    """Return a function up to an equation, however deep in calls, and which output of the jaxpr that is, if any.

    A call whose result is asked for stays a call, so that a derivative that it defines is used.
    """
    index, *inside = position
    eqn = jax_versions.open_jaxpr(closed).eqns[index]
    if inside:
        inner, result = _computing(jax_versions.call_jaxpr(eqn), inside, place)
        if result is None:
            operands = _cut(closed, index, list(eqn.invars), join=False)
            return lambda *inputs: inner(*operands(*inputs)), None
        place = result
    variable, outputs = eqn.outvars[place], jax_versions.open_jaxpr(closed).outvars
    return _cut(closed, index + 1, [variable]), outputs.index(variable) if variable in outputs else None


def _cut(closed: Any, count: int, outputs: list[Any], *, join: bool = True) -> Callable:
    short = jax_versions.shortened(closed, count, outputs)
    function = core.jaxpr_as_fun(short)
    return (lambda *inputs: function(*inputs)[0]) if join else function
