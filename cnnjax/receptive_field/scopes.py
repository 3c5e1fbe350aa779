"""The receptive field at the end of every linen module, for tables that have a row a module."""

from collections.abc import Sequence
from typing import Any

from cnnjax.receptive_field.analysis import Analysis
from cnnjax.receptive_field.field import ReceptiveField
from cnnjax.receptive_field.tracing import Traced


def fields_by_scope(closed: Any, spatial_axes: Sequence[int] = (1, 2)) -> dict[tuple[str, ...], ReceptiveField]:
    """Return what the last value made in each scope reads of the image.

    Args:
      closed: A jaxpr whose last input is the image; the others are parameters.
      spatial_axes: Axes of the image that are its height and width.
    Returns:
      A field a scope that the output depends on; a scope is a tuple of names, outermost first, the model's own first.
    """
    analysis = Analysis(Traced(closed, tuple(spatial_axes)))
    last: dict[tuple[str, ...], Any] = {}
    for record in analysis.records:
        value = next((value for value in record.results if value.reads), None)
        if value is not None:
            for length in range(1, len(record.path) + 1):
                last[record.path[:length]] = value
    return {scope: analysis.describe("/".join(scope), value) for scope, value in last.items()}
