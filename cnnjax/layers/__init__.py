"""Flax linen layers made of cnnjax's ops, for the models here and for anyone's."""

from cnnjax.layers.conv import Conv, ConvNormAct
from cnnjax.layers.head import DenseHead
from cnnjax.layers.inception import InceptionBlock, NaiveInceptionBlock
from cnnjax.layers.norm import BatchNorm, LocalResponseNorm
from cnnjax.layers.pool import AvgPool, GlobalAvgPool, MaxPool
from cnnjax.layers.residual import BasicBlock, BottleneckBlock, StochasticDepth, padded_shortcut

__all__ = [
    "AvgPool",
    "BasicBlock",
    "BatchNorm",
    "BottleneckBlock",
    "Conv",
    "ConvNormAct",
    "DenseHead",
    "GlobalAvgPool",
    "InceptionBlock",
    "LocalResponseNorm",
    "MaxPool",
    "NaiveInceptionBlock",
    "StochasticDepth",
    "padded_shortcut",
]


def __dir__() -> list[str]:
    return __all__
