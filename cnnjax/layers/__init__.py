"""Flax linen layers made of cnnjax's ops, for the models here and for anyone's."""

from cnnjax.layers.conv import Conv, ConvNormAct
from cnnjax.layers.head import DenseHead
from cnnjax.layers.norm import BatchNorm
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
    "MaxPool",
    "StochasticDepth",
    "padded_shortcut",
]
