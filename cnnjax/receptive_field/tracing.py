"""From a function or a module to its jaxpr, from shapes alone."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.extend import core

from cnnjax import jax_versions, jaxpr
from cnnjax.errors import UsageError
from cnnjax.modes import train_kwargs

# Linen's modules draw from these; `init` makes parameters of the first.
STREAMS = ("params", "dropout")


@dataclass(frozen=True)
class Traced:
    """Hold a function as JAX sees it.

    Args:
      closed: Its jaxpr, whose last input is the image.
      axes: The image's spatial axes.
      outputs: How many of the jaxpr's outputs are the function's; what follows are a module's parameters.
      held: Arrays that an NNX or Equinox module holds, which come before the image among the jaxpr's inputs.
    """

    closed: Any
    axes: tuple[int, ...]
    outputs: int | None = None
    held: tuple[Any, ...] = ()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the image with its batch axis."""
        return jaxpr.shape(jax_versions.open_jaxpr(self.closed).invars[-1])


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
        function, held = _evaluating(fn_or_model)
        return Traced(jax.make_jaxpr(function)(held, image), axes, held=tuple(jax.tree.leaves(held)))
    in_mode = train_kwargs(fn_or_model, train=False)
    if variables is not None:
        return Traced(jax.make_jaxpr(lambda v, x: fn_or_model.apply(v, x, **in_mode))(variables, image), axes)
    # One trace gives parameters and output; tracing `init` and `apply` by themselves takes twice as long.
    function: Callable = lambda keys, x: fn_or_model.init_with_output(keys, x, **in_mode)  # noqa: E731

    def separately(keys: Any, x: Any) -> Any:
        variables = lax.optimization_barrier(fn_or_model.init(keys, x, **in_mode))
        return fn_or_model.apply(variables, x, rngs=keys, mutable=True, **in_mode)[0], variables

    keys = jax.eval_shape(lambda: {name: jax.random.key(0) for name in STREAMS})
    closed, (out, _) = jax.make_jaxpr(function, return_shape=True)(keys, image)
    own = len(jax.tree.leaves(out))
    if _has_bare(closed, range(own, len(jax_versions.open_jaxpr(closed).outvars))):
        closed = jax.make_jaxpr(separately)(keys, image)
    return Traced(closed, axes, own)


def _has_bare(closed: Any, places: Iterable[int]) -> bool:
    """Say whether one of the outputs is a number or array that the jaxpr holds, so that others like it are no other."""
    inside = jax_versions.open_jaxpr(closed)
    made = {var: (eqn, place) for eqn in inside.eqns for place, var in enumerate(eqn.outvars)}
    for out in (inside.outvars[place] for place in places):
        if isinstance(out, core.Literal) or out in inside.constvars:
            return True
        eqn, place = made.get(out, (None, 0))
        if eqn is not None and any(_has_bare(body, [place]) for body in _bodies(eqn)):
            return True
    return False


def _bodies(eqn: core.JaxprEqn) -> Sequence[Any]:
    """Return the jaxprs in an equation whose results are its own."""
    match eqn.primitive.name:
        case "cond":
            return jax_versions.branches(eqn)
        case "scan":
            return [jax_versions.scan_parts(eqn).body]
        case "while":
            return [jax_versions.while_parts(eqn).body]
    called = jax_versions.call_jaxpr(eqn)
    return [] if called is None else [called]


def _evaluating(function: Callable) -> tuple[Callable, Any]:
    """Return a function of the arrays that a module holds and of an image, and those arrays; a function holds none.

    An NNX or Equinox module, which holds its mode as well, is copied into evaluation mode.
    """
    nnx, equinox = sys.modules.get("flax.nnx"), sys.modules.get("equinox")
    if nnx is not None and isinstance(function, nnx.Module):
        graph, state = nnx.split(function)

        def evaluated(state: Any, image: Any) -> Any:
            module = nnx.merge(graph, state)
            module.eval()
            return module(image)

        return evaluated, state
    if equinox is not None and isinstance(function, equinox.Module):
        arrays, rest = equinox.partition(equinox.nn.inference_mode(function), equinox.is_array)
        return lambda arrays, image: equinox.combine(arrays, rest)(image), arrays
    return lambda nothing, image: function(image), ()


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
