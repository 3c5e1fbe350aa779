"""Convolutional networks in JAX and Flax linen: modules, models, training, data."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnjax import (
        data,
        devices,
        errors,
        layers,
        models,
        ops,
        pretrained,
        receptive_field,
        recipes,
        runs,
        shapes,
        training,
    )
    from cnnjax.classifier import Classifier
    from cnnjax.model_summary import summary
    from cnnjax.models.features import features

__version__ = "0.1.0"

__all__ = [
    "Classifier",
    "data",
    "devices",
    "errors",
    "features",
    "layers",
    "models",
    "ops",
    "pretrained",
    "receptive_field",
    "recipes",
    "runs",
    "shapes",
    "summary",
    "training",
]

# Functions that are too useful to be looked for in a subpackage, with the module that holds each.
_FUNCTIONS = {"Classifier": "classifier", "features": "models.features", "summary": "model_summary"}


def __getattr__(name: str) -> Any:
    """Load a subpackage when it is first named, so that importing cnnjax costs nothing that is not used."""
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"cnnjax.{_FUNCTIONS[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"cnnjax.{name}")
    raise AttributeError(f"module 'cnnjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
