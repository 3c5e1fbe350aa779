"""From a function or a module to its jaxpr, from shapes alone."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend import core

from cnnjax import jaxpr
from cnnjax.errors import UsageError
from cnnjax.modes import mode

# Linen's modules draw from these; `init` makes parameters of the first.
STREAMS = ("params", "dropout")


@dataclass(frozen=True)
class Traced:
    """Hold a function as JAX sees it.

    Args:
      closed: Its jaxpr, whose last input is the image.
      axes: The image's spatial axes.
      outputs: How many of the jaxpr's outputs are the function's; what follows are a module's parameters.
    """

    closed: core.ClosedJaxpr
    axes: tuple[int, ...]
    outputs: int | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the image with its batch axis."""
        return jaxpr.shape(self.closed.jaxpr.invars[-1])


def traced(fn_or_model: Any, input_shape: Sequence[int], spatial_axes: Sequence[int], variables: Any = None) -> Traced:
    """Trace a function of one array, or a module.

    Args:
      fn_or_model: A function or a linen module.
      input_shape: Shape of the input; of a module's, the batch axis may be left out.
      spatial_axes: Axes of the input that are the image's.
      variables: The module's; they come before the image among the jaxpr's inputs. None: the jaxpr makes them itself,
        of the random keys that come before the image.
    """
    shape = tuple(int(size) for size in input_shape)
    is_module = isinstance(fn_or_model, nn.Module)
    if is_module and len(shape) == 3 and tuple(spatial_axes) == (1, 2):
        shape = (1, *shape)
    axes = _checked(shape, spatial_axes)
    if not callable(fn_or_model):
        raise TypeError(
            f"receptive_field: expected a function or a linen module, got {type(fn_or_model).__name__}. "
            "Give a function of one array."
        )
    try:
        return _trace(fn_or_model, jax.ShapeDtypeStruct(shape, jnp.float32), axes, variables)
    except UsageError:
        raise
    except Exception as error:
        name = type(fn_or_model).__name__ if is_module else getattr(fn_or_model, "__name__", "the function")
        hint = " Give the batch axis too: (1, H, W, C)." if len(shape) == 3 else ""
        raise ValueError(
            f"receptive_field: expected {name} to take an input of shape {shape}, "
            f"got {type(error).__name__}: {str(error).rstrip('.')}.{hint}"
        ) from error


def _trace(fn_or_model: Any, image: jax.ShapeDtypeStruct, axes: tuple[int, ...], variables: Any) -> Traced:
    if not isinstance(fn_or_model, nn.Module):
        return Traced(jax.make_jaxpr(_evaluating(fn_or_model))(image), axes)
    in_mode = mode(fn_or_model, train=False)
    if variables is not None:
        return Traced(jax.make_jaxpr(lambda v, x: fn_or_model.apply(v, x, **in_mode))(variables, image), axes)
    # One trace gives parameters and output; tracing `init` and `apply` by themselves takes twice as long.
    function: Callable = lambda keys, x: fn_or_model.init_with_output(keys, x, **in_mode)  # noqa: E731
    keys = jax.eval_shape(lambda: {name: jax.random.key(0) for name in STREAMS})
    closed, (out, _) = jax.make_jaxpr(function, return_shape=True)(keys, image)
    return Traced(closed, axes, len(jax.tree.leaves(out)))


def _evaluating(function: Callable) -> Callable:
    """Return a function as it is; of an NNX or Equinox module, which holds its mode, a copy in evaluation mode."""
    nnx, equinox = sys.modules.get("flax.nnx"), sys.modules.get("equinox")
    if nnx is not None and isinstance(function, nnx.Module):
        graph, state = nnx.split(function)

        def evaluated(image: Any) -> Any:
            module = nnx.merge(graph, state)
            module.eval()
            return module(image)

        return evaluated
    if equinox is not None and isinstance(function, equinox.Module):
        return equinox.nn.inference_mode(function)
    return function


def _checked(shape: tuple[int, ...], spatial_axes: Sequence[int]) -> tuple[int, ...]:
    axes = tuple(axis % len(shape) if shape and -len(shape) <= axis < len(shape) else -1 for axis in spatial_axes)
    if not axes or -1 in axes or len(set(axes)) < len(axes):
        hint = " Give the batch axis too: (1, H, W, C)." if len(shape) == 2 else ""
        raise ValueError(
            f"receptive_field: expected spatial axes of an input of shape {shape}, got {tuple(spatial_axes)}. "
            f"Name each axis once, from 0 to {len(shape) - 1}.{hint}"
        )
    if not all(size > 0 for size in shape):
        raise ValueError(
            f"receptive_field: expected an input with pixels, got shape {shape}. Make every size at least 1."
        )
    return axes
