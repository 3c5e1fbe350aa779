"""The nets, one file a family; a name in a family's `__all__` is a model."""

import dataclasses
from collections.abc import Callable
from numbers import Integral
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from cnnjax.errors import UsageError, unknown
from cnnjax.models import (
    alexnet,
    convnext,
    densenet,
    efficientnet,
    googlenet,
    inception_v3,
    lenet,
    lenet_1998,
    mobilenet_v2,
    mobilenet_v3,
    resnet,
    resnet_cifar,
    simple_cnn,
    vgg,
    wide_resnet,
)
from cnnjax.ops.arguments import floating

_FAMILIES = (
    *(simple_cnn, lenet, lenet_1998, alexnet, vgg, googlenet, inception_v3, resnet, resnet_cifar, wide_resnet),
    *(densenet, mobilenet_v2, mobilenet_v3, efficientnet, convnext),
)

__all__ = ["available", "build", "input_shape", "num_classes"]


def __dir__() -> list[str]:
    return __all__


def available() -> list[str]:
    """Return the names that `build` knows, sorted.

    Example:
      >>> "lenet5" in available()
      True
    """
    return sorted(name for family in _FAMILIES for name in family.__all__)


def build(
    name: str,
    *,
    num_classes: int | None = None,
    include_top: bool = True,
    pooling: str | None = None,
    dtype: Any = jnp.float32,
    **options: Any,
) -> nn.Module:
    """Return the linen module of that name.

    Args:
      name: One of `available()`.
      num_classes: Width of the logits; None for what the net was published for, as `num_classes(name)` says.
      include_top: Whether the classifier is part of it.
      pooling: Without the top: `avg`, `max`, or None for the feature map.
      dtype: What is computed in; parameters stay float32.
      **options: What the model itself takes beyond these.
    Returns:
      The module; `module.apply(variables, x, train=False)` gives logits, float32, `[N, num_classes]`.
    Raises:
      UsageError: If the name or an option is not known (the nearest ones are in the message) or `num_classes` is below
        1.
    Example:
      >>> build("lenet5").num_classes, build("lenet5", num_classes=47).num_classes
      (10, 47)
    """
    if num_classes is not None:
        if not isinstance(num_classes, Integral) or num_classes < 1:
            raise UsageError(f"build: expected num_classes >= 1, got {num_classes!r}. Give a positive integer.")
        options["num_classes"] = num_classes
    floating("build", dtype)
    constructor: Any = _constructor(name)
    fields = {field.name for field in dataclasses.fields(getattr(constructor, "func", constructor))}
    if misspelt := sorted(options.keys() - fields):
        raise unknown(f"option of {name}", misspelt[0], fields - {"parent"})
    return constructor(include_top=include_top, pooling=pooling, dtype=dtype, **options)


def input_shape(name: str) -> tuple[int, int, int]:
    """Return the shape `(H, W, C)` of the images that the net was published for."""
    return _constructor(name)().input_shape


def num_classes(name: str) -> int:
    """Return the number of classes that the net was published for."""
    return _constructor(name)().num_classes


def _constructor(name: str) -> Any:
    constructors: dict[str, Callable[..., nn.Module]] = {n: getattr(f, n) for f in _FAMILIES for n in f.__all__}
    if name not in constructors:
        raise unknown("model", name, constructors)
    return constructors[name]
