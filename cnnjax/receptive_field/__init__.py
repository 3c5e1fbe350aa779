"""Receptive fields: which pixels a unit reads, exactly, and how much each of them matters, measured."""

from cnnjax.receptive_field.field import ReceptiveField
from cnnjax.receptive_field.gaussian import GaussianFit, effective_size, fit_gaussian
from cnnjax.receptive_field.measured import Growth, growth, measure
from cnnjax.receptive_field.nan_probe import Support, probe
from cnnjax.receptive_field.plot import plot, plot_growth
from cnnjax.receptive_field.theory import (
    Layer,
    StackComparison,
    compare_stacks,
    receptive_field,
    trace,
    trace_jaxpr,
)

__all__ = [
    "GaussianFit",
    "Growth",
    "Layer",
    "ReceptiveField",
    "StackComparison",
    "Support",
    "compare_stacks",
    "effective_size",
    "fit_gaussian",
    "growth",
    "measure",
    "plot",
    "plot_growth",
    "probe",
    "receptive_field",
    "trace",
    "trace_jaxpr",
]


def __dir__() -> list[str]:
    return __all__
