"""Convolutions of several groups as a few plain ones: neighbouring groups share one, whose kernel is zero between them.

XLA for the CPU computes groups number by number. A plain convolution of 16 channels is fast enough to be worth zeros
between groups of fewer. Zero times infinity being NaN, a non-finite pixel spreads to the groups that share with its.
"""

from collections.abc import Callable
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops.cpu.blocks import noinline
from cnnjax.ops.cpu.spec import ConvSpec

_CHANNELS = 16  # of one plain convolution, at the least: measured


def merged(spec: ConvSpec) -> int:
    """Return how many groups share one plain convolution."""
    channels = min(spec.kernel_shape[2], spec.kernel_shape[3] // spec.groups)
    divisors = [n for n in range(1, spec.groups + 1) if spec.groups % n == 0]
    return next((n for n in divisors if n * channels >= _CHANNELS), spec.groups)


def plain(spec: ConvSpec) -> ConvSpec:
    """Return the plain convolution that the merged groups make."""
    many, (kh, kw, channels, features) = merged(spec), spec.kernel_shape
    shape = (*spec.input_shape[:3], many * channels)
    return replace(spec, input_shape=shape, kernel_shape=(kh, kw, shape[3], many * features // spec.groups), groups=1)


def in_parts(role: str, algorithm: Callable, a, b, spec: ConvSpec):
    """Return what a role computes, by an algorithm for the plain convolutions.

    Args:
      role: The role.
      algorithm: A function of two operands and a spec.
      a: The first operand.
      b: The second.
      spec: The convolution of groups.
    """
    small, dense = plain(spec), b
    if role != "kernel_grad":
        dense = noinline(_dense)(b, groups=spec.groups, many=merged(spec))

    def part(i):
        return noinline(_on_part)(a, dense, i, role=role, algorithm=algorithm, spec=small)

    parts = [part(i) for i in range(spec.input_shape[3] // small.input_shape[3])]
    return noinline(_diagonals)(parts, groups=spec.groups) if role == "kernel_grad" else jnp.concatenate(parts, 3)


def _on_part(a, b, i, *, role: str, algorithm: Callable, spec: ConvSpec):
    channels = spec.kernel_shape[3] if role == "input_grad" else spec.input_shape[3]
    a = noinline(_part)(a, i, channels=channels)
    return algorithm(a, noinline(_part)(b, i, channels=spec.kernel_shape[3]), spec)


def _part(x, i, *, channels: int):
    return lax.dynamic_slice_in_dim(x, i * channels, channels, 3)


def _dense(kernel, *, groups: int, many: int):
    """Return the plain convolutions' kernels side by side: `[KH, KW, C / groups, O]` to `[KH, KW, C', O]`."""
    kh, kw, channels, features = kernel.shape
    each = features // groups
    split = kernel.reshape(kh, kw, 1, channels, groups // many, many, each)
    own = np.eye(many, dtype=bool).reshape(1, 1, many, 1, 1, many, 1)
    full = jnp.where(own, split, jnp.zeros((), kernel.dtype))
    return full.reshape(kh, kw, many * channels, features)


def _diagonals(gradients, *, groups: int):
    """Return the gradient of a kernel from those of the plain convolutions' kernels."""
    kh, kw, channels, features = gradients[0].shape
    many = groups // len(gradients)
    split = jnp.stack(gradients).reshape(-1, kh, kw, many, channels // many, many, features // many)
    own = jnp.stack([split[:, :, :, i, :, i] for i in range(many)], 4)  # [parts, KH, KW, C / groups, many, O / groups]
    return own.transpose(1, 2, 3, 0, 4, 5).reshape(kh, kw, channels // many, -1)
