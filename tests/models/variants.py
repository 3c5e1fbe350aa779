"""Which models the quick tests trace: the smallest of each family. A deeper one repeats its blocks, and is slow.

Of the nets with many depths, the deepest are left to `--full`.
"""

import re

import pytest

from cnnjax import models

_DEEPER = re.compile(
    r"resnet(32|34|44|56|101|110|152)|resnext101|wide_resnet101|vgg1[369]|densenet(169|201)"
    r"|efficientnet_b[1-7]|convnext_(small|base|large)|\w+_keras$|densenet_bc|wide_resnet50|seresnet50|resnet50d"
)

_DEEPEST = re.compile(r"(resnext|wide_resnet)101|densenet(169|201)|efficientnet_b[1-7]|convnext_(small|base|large)")


def marks(name: str) -> tuple[pytest.MarkDecorator, ...]:
    """Return what a test of the model of that name is marked with."""
    return (pytest.mark.slow, *repeats(name)) if _DEEPER.match(name) else ()


def repeats(name: str) -> tuple[pytest.MarkDecorator, ...]:
    """Return what a slow test of values is marked with where a shallower net of the family has it too."""
    return (pytest.mark.full,) if _DEEPEST.match(name) else ()


def every_model() -> list:
    """Return every model's name as a parameter of a test."""
    return [pytest.param(name, marks=marks(name)) for name in models.available()]
