"""Which convolutions may take the CPU's own algorithms; every other one is `jax.lax`'s, untouched."""

import operator
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import shapes
from cnnjax.jax_versions import on_no_mesh
from cnnjax.ops import cpu

SWITCH = "CNNJAX_CPU_OPS"
_MODES = ("on", "off", "exact")
_DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)
_NHWC = lax.ConvDimensionNumbers(lhs_spec=(0, 3, 1, 2), rhs_spec=(3, 2, 0, 1), out_spec=(0, 3, 1, 2))


def cpu_mode() -> str:
    """Return `on`, `off` or `exact`, as the environment variable `CNNJAX_CPU_OPS` says when a function is traced.

    Raises:
      ValueError: If the variable holds anything else.
    """
    mode = os.environ.get(SWITCH, "on").lower() or "on"
    if mode not in _MODES:
        raise ValueError(
            f"{SWITCH}: expected one of {', '.join(_MODES)}, got {mode!r}. Unset it or set it to one of them."
        )
    return mode


@contextmanager
def plain_convolutions() -> Iterator[None]:
    """Trace what is called inside with the platform's own convolutions."""
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "off"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before


def cpu_conv_spec(
    lhs,
    rhs,
    window_strides,
    padding,
    *,
    lhs_dilation: Any,
    rhs_dilation: Any,
    dimension_numbers: Any,
    feature_group_count: Any,
    batch_group_count: Any,
    preferred_element_type: Any,
    out_sharding: Any,
) -> cpu.ConvSpec | None:
    """Return the convolution as a problem if a CPU has an algorithm of its own for any of its roles, else None."""
    mode = cpu_mode()
    plain = (
        mode != "off"
        and _plain(lhs, rhs)
        and feature_group_count == 1
        and batch_group_count == 1
        and (lhs_dilation is None or all(d == 1 for d in lhs_dilation))
        and (preferred_element_type is None or preferred_element_type == lhs.dtype)
        and out_sharding is None
        and _is_nhwc(lhs, rhs, dimension_numbers)
        and lhs.shape[3] == rhs.shape[2]
    )
    if not plain:
        return None
    try:
        strides = _two(window_strides)
        dilation = (1, 1) if rhs_dilation is None else _two(rhs_dilation)
        sides = (padding, padding) if isinstance(padding, str) else [_two(side) for side in padding]
        if len(sides) != 2 or min(strides + dilation) < 1:
            return None
        pads = [
            shapes.window_padding(n, k, s, p, d)
            for n, k, s, p, d in zip(lhs.shape[1:3], rhs.shape[:2], strides, sides, dilation)
        ]
    except (TypeError, ValueError):  # whatever is wrong with it, jax.lax says in its own words
        return None
    return _if_fast(cpu.ConvSpec(lhs.shape, rhs.shape, strides, (pads[0], pads[1]), dilation, exact=mode == "exact"))


def cpu_transposed_conv_spec(g, kernel, out_sizes, strides, padding, dilation) -> cpu.ConvSpec | None:
    """Return the convolution of which this is the transpose as a problem, as `cpu_conv_spec` does.

    Args:
      g: What is transposed, `[N, H', W', O]`.
      kernel: The convolution's, `[KH, KW, C, O]`.
      out_sizes: Height and width of what comes out, the convolution's images.
      strides: The convolution's.
      padding: The convolution's, as pairs.
      dilation: The convolution's.
    """
    mode = cpu_mode()
    if mode == "off" or not _plain(g, kernel):
        return None
    shape = (g.shape[0], *out_sizes, kernel.shape[2])
    return _if_fast(cpu.ConvSpec(shape, kernel.shape, strides, tuple(padding), dilation, exact=mode == "exact"))


def _if_fast(problem: cpu.ConvSpec) -> cpu.ConvSpec | None:
    return problem if any(cpu.choose(role, problem) for role in cpu.ROLES) else None


def _two(numbers) -> tuple[int, int]:
    first, second = (operator.index(number) for number in numbers)
    return first, second


def _plain(lhs, rhs) -> bool:
    """Say whether both are images and kernels of at most 32 bits and of known sizes, on no mesh."""
    arrays = all(
        isinstance(array, jax.Array | np.ndarray)
        and array.ndim == 4
        and array.dtype in _DTYPES
        and all(isinstance(size, int) and size > 0 for size in array.shape)
        and on_no_mesh(array)
        for array in (lhs, rhs)
    )
    return arrays and lhs.dtype == rhs.dtype


def _is_nhwc(lhs, rhs, dimension_numbers) -> bool:
    try:
        return lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers) == _NHWC
    except (TypeError, ValueError):
        return False
