"""Receptive fields: which pixels a unit reads, exactly, and how much each of them matters, measured."""

from cnnjax.receptive_field.field import ReceptiveField
from cnnjax.receptive_field.nan_probe import Support, probe
from cnnjax.receptive_field.theory import Layer, receptive_field, trace, trace_jaxpr

__all__ = ["Layer", "ReceptiveField", "Support", "probe", "receptive_field", "trace", "trace_jaxpr"]
