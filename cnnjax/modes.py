"""Whether a linen module distinguishes training from evaluation."""

import inspect
from collections.abc import Callable
from typing import Any

from flax import linen as nn


def knows_modes(model: nn.Module) -> bool:
    """Return whether a module is called as `model(x, train=...)` rather than as `model(x)`.

    Args:
      model: Any linen module.
    """
    return _takes_train(model)


def mode(model: nn.Module, *, train: bool) -> dict[str, Any]:
    """Return the keyword arguments that put a call of the module into a mode: `train`, or none if it knows no modes.

    Args:
      model: Any linen module.
      train: Which mode.
    """
    return {"train": train} if knows_modes(model) else {}


def _takes_train(layer: nn.Module | Callable) -> bool:
    if isinstance(layer, nn.Sequential) and type(layer).__call__ is nn.Sequential.__call__:
        # It takes any keyword itself, but only to hand it to its first layer.
        return bool(layer.layers) and _takes_train(layer.layers[0])
    try:
        parameters = inspect.signature(type(layer).__call__ if isinstance(layer, nn.Module) else layer).parameters
    except (TypeError, ValueError):  # a function written in C
        return False
    return any(p.name == "train" or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
