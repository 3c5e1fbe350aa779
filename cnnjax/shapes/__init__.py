"""Window arithmetic on plain integers: output sizes, padding, and where the windows lie. Imports no JAX."""

from cnnjax.shapes.explanation import Explanation, explain, explain_transpose
from cnnjax.shapes.sizes import (
    Padding,
    conv_output_size,
    conv_transpose_output_size,
    conv_transpose_padding,
    resolve_padding,
    same_padding,
    window_padding,
)

__all__ = [
    "Explanation",
    "Padding",
    "conv_output_size",
    "conv_transpose_output_size",
    "conv_transpose_padding",
    "explain",
    "explain_transpose",
    "resolve_padding",
    "same_padding",
    "window_padding",
]


def __dir__() -> list[str]:
    return __all__
