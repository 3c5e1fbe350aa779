"""How a linen module is told whether it trains: by which argument of its call, in which sense."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flax import linen as nn

from cnnjax.errors import UsageError

# The names that Flax's and other libraries' nets have for it, and what each is in training.
_IN_TRAINING = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
    "update_stats": True,
}
_FROZEN = "_cnnjax_frozen"
# Other names of modes, told by their words where neither a default nor a type says that they are Boolean.
_LIKE_MODES = re.compile(r"(is_|in_)?(train|training|eval|evaluation|inference|test|testing)(_mode)?")
# Switches of what comes out, not of how it is computed.
_NOT_MODES = re.compile(r"^(return|output|capture|include|with|features|verbose)|_(only|features|logits)$")


def accepts_train(model: nn.Module) -> bool:
    """Return whether a call of the module says if it is in training: by `train`, or by another of the field's names.

    Args:
      model: Any linen module.
    """
    return bool(train_kwargs(model, train=True))


def train_kwargs(model: nn.Module, *, train: bool) -> dict[str, Any]:
    """Return the keyword arguments that put a call of the module into training or evaluation; none if it has no modes.

    They are called `train`, `training`, `is_training`, or, in the opposite sense, `deterministic` and
    `use_running_average`. A module that takes any keyword gets `train`.

    Args:
      model: Any linen module.
      train: Whether to train.
    Raises:
      UsageError: If the module has none of these arguments, but one that may mean the same: Boolean, or called so.
    """
    called = _first(model)
    parameters = _parameters(called)
    names = [name for name in _IN_TRAINING if name in parameters and not _is_fixed(called, parameters[name])]
    if not names:
        unknown = [name for name, p in parameters.items() if _may_be_mode(called, p)]
        if unknown and not parameters.keys() & _IN_TRAINING.keys():
            raise UsageError(
                f"{type(model).__name__}: its call has an argument {unknown[0]!r}, and nothing says whether it means "
                "training. Call it train, training, is_training, deterministic or use_running_average, or make "
                "it a field of the module."
            )
        names = ["train"] if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) else []
    return {name: _IN_TRAINING[name] == train for name in names}


def in_evaluation(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Return the arguments of a module's call changed so that it evaluates, whatever its fields and arguments said.

    Args:
      module: The bound instance, whose fields are changed: it lives for one `apply` alone.
      args: Positional arguments of its call.
      kwargs: Keyword arguments of its call.
    """
    object.__setattr__(module, _FROZEN, True)  # linen forbids the ordinary way
    bound = inspect.signature(type(module).__call__).bind(module, *args, **kwargs)
    fields = {field.name for field in dataclasses.fields(module)}
    for name, in_training in _IN_TRAINING.items():
        if bound.arguments.get(name) is None and name in fields:
            object.__setattr__(module, name, not in_training)
        elif name in bound.signature.parameters:
            bound.arguments[name] = not in_training
    return bound.args[1:], bound.kwargs


@contextmanager
def watch_modes() -> Iterator[dict[str, bool]]:
    """Note which modules are called in training mode: by path, of those that call no others and have modes.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = nn.Sequential([nn.Dropout(0.5, deterministic=True)])
      >>> with watch_modes() as seen:
      ...     _ = model.apply({}, jnp.zeros((1, 2)))
      >>> seen
      {'layers_0': False}
    """
    seen: dict[str, bool | None] = {}
    leaves: dict[str, bool] = {}

    def intercept(call: Callable, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        found = call(*args, **kwargs)
        if context.method_name == "__call__":  # after the call: `in_evaluation` may have changed it
            frozen = getattr(context.module, _FROZEN, False)
            seen["/".join(context.module.path)] = False if frozen else _trains(context.module, args, kwargs)
        return found

    with nn.intercept_methods(intercept):
        yield leaves
    callers = {path.rpartition("/")[0] for path in seen if path}
    leaves |= {path: trains for path, trains in seen.items() if trains is not None and path not in callers}


def _trains(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> bool | None:
    """Return whether a call is one in training, None where the module has no modes or a traced one."""
    bound = inspect.signature(type(module).__call__).bind(module, *args, **kwargs)
    bound.apply_defaults()
    for name, in_training in _IN_TRAINING.items():
        value = bound.arguments.get(name)
        value = getattr(module, name, None) if value is None else value
        if isinstance(value, bool):
            return value == in_training
    return None


def _first(layer: Any) -> Any:
    """Return what gets the keyword arguments: a sequence takes any itself, but only for its first layer."""
    while isinstance(layer, nn.Sequential) and type(layer).__call__ is nn.Sequential.__call__ and layer.layers:
        layer = layer.layers[0]
    return layer


def _parameters(layer: nn.Module | Callable) -> dict[str, inspect.Parameter]:
    if isinstance(layer, nn.Sequential) and not layer.layers:
        return {}
    try:
        called = type(layer).__call__ if isinstance(layer, nn.Module) else layer
        return dict(inspect.signature(called).parameters)
    except (TypeError, ValueError):  # a function written in C
        return {}


def _is_fixed(layer: Any, parameter: inspect.Parameter) -> bool:
    """Return whether a field says it, as in `nn.Dropout(0.5, deterministic=True)`; to say it twice is an error."""
    return parameter.default is None and getattr(layer, parameter.name, None) is not None


def _may_be_mode(layer: Any, parameter: inspect.Parameter) -> bool:
    # A function has no modes, and of Flax's own modules all that have are known.
    if not isinstance(layer, nn.Module) or type(layer).__module__.startswith("flax.") or parameter.name == "self":
        return False
    boolean = isinstance(parameter.default, bool) or re.search(r"\bbool\b", str(parameter.annotation))
    named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    by_word = isinstance(parameter.default, str) and parameter.default in ("train", "training", "eval", "test")
    boolean = boolean or (named and (by_word or _LIKE_MODES.fullmatch(parameter.name)))
    return bool(boolean) and not _NOT_MODES.search(parameter.name)
