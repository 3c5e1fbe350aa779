"""Flax linen layers made of cnnjax's ops, for the models here and for anyone's."""

from jax.nn import hard_swish

from cnnjax.layers.conv import Conv, ConvNormAct
from cnnjax.layers.convnext import ConvNeXtBlock, LayerScale
from cnnjax.layers.dense_block import DenseBlock
from cnnjax.layers.gate import SqueezeExcitation, round_channels
from cnnjax.layers.head import DenseHead
from cnnjax.layers.inception import InceptionBlock, NaiveInceptionBlock
from cnnjax.layers.mobile import InvertedResidual
from cnnjax.layers.norm import BatchNorm, LayerNorm, LocalResponseNorm
from cnnjax.layers.pool import AvgPool, GlobalAvgPool, MaxPool
from cnnjax.layers.residual import (
    BasicBlock,
    BottleneckBlock,
    PreActivationBlock,
    StochasticDepth,
    padded_shortcut,
)

__all__ = [
    "AvgPool",
    "BasicBlock",
    "BatchNorm",
    "BottleneckBlock",
    "Conv",
    "ConvNeXtBlock",
    "ConvNormAct",
    "DenseBlock",
    "DenseHead",
    "GlobalAvgPool",
    "InceptionBlock",
    "InvertedResidual",
    "LayerNorm",
    "LayerScale",
    "LocalResponseNorm",
    "MaxPool",
    "NaiveInceptionBlock",
    "PreActivationBlock",
    "SqueezeExcitation",
    "StochasticDepth",
    "hard_swish",
    "padded_shortcut",
    "round_channels",
]


def __dir__() -> list[str]:
    return __all__
