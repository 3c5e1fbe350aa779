"""Whether a linen module distinguishes training from evaluation."""

import inspect
from typing import Any

from flax import linen as nn


def knows_modes(model: nn.Module) -> bool:
    """Return whether a module is called as `model(x, train=...)` rather than as `model(x)`.

    Args:
      model: Any linen module.
    """
    parameters = inspect.signature(type(model).__call__).parameters.values()
    return any(p.name == "train" or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def mode(model: nn.Module, *, train: bool) -> dict[str, Any]:
    """Return the keyword arguments that put a call of the module into a mode: `train`, or none if it knows no modes.

    Args:
      model: Any linen module.
      train: Which mode.
    """
    return {"train": train} if knows_modes(model) else {}
