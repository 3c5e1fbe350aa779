"""What a row of the table calls the equation that it stands for."""

import math
from typing import Any

from jax.extend import core

from cnnjax import jax_versions, jaxpr

_PLAIN = {
    "concatenate": "concatenation",
    "cond": "branches",
    "dot_general": "matrix product",
    "fft": "Fourier transform",
    "gather": "gather",
    "reduce_max": "maximum over axes",
    "reduce_sum": "sum over axes",
    "sort": "sort",
    "while": "loop",
}
_POOLS = {"reduce_window_max": "max pool", "reduce_window_min": "min pool", "reduce_window_sum": "sum pool"}


def kind(eqn: core.JaxprEqn) -> str | None:
    """Return what an equation is in words, or None if it works element by element or only moves elements."""
    name, params = eqn.primitive.name, jax_versions.params(eqn)
    if name == "conv_general_dilated":
        dimensions = params["dimension_numbers"]
        taps = [jaxpr.shape(eqn.invars[1])[axis] for axis in dimensions.rhs_spec[2:]]
        up = params["lhs_dilation"]
        word = "transposed convolution" if any(step > 1 for step in up) else "convolution"
        strides = up if any(step > 1 for step in up) else params["window_strides"]
        return _window(word, taps, strides, params["rhs_dilation"], params["feature_group_count"])
    if name in _POOLS:
        moved = [
            place
            for place, (taps, stride) in enumerate(zip(params["window_dimensions"], params["window_strides"]))
            if taps > 1 or stride > 1
        ]
        taps, strides, dilation = (
            [params[key][place] for place in moved]
            for key in ("window_dimensions", "window_strides", "window_dilation")
        )
        return _window(_POOLS[name], taps, strides, dilation, 1) if moved else None
    same = jaxpr.default_branch(eqn) if jaxpr.is_platform_choice(eqn) else jaxpr.meaning(eqn)
    if same is not None:
        words = [kind(step.eqn) for step in jaxpr.walk(same)]
        return next((word for word in reversed(words) if word), None)
    if name == "scan":
        return f"scan of {params['length']} steps"
    return _PLAIN.get(name)


def _window(word: str, taps: Any, strides: Any, dilation: Any, groups: int) -> str:
    words = f"{word} {_times(taps)}"
    if math.prod(strides) > 1:
        words += f" stride {_times(strides)}"
    if math.prod(dilation) > 1:
        words += f" dilation {_times(dilation)}"
    return words + (f" groups {groups}" if groups > 1 else "")


def _times(numbers: Any) -> str:
    return "x".join(str(number) for number in numbers)
