"""Residual nets for CIFAR: the first paper's narrow ones, whose shortcuts have no parameters, and ResNeXt-29."""

from functools import partial

from cnnjax.layers import BasicBlock, BottleneckBlock
from cnnjax.layers.initializers import he_normal
from cnnjax.models.resnet import ResNet

__all__ = ["resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnext29_8x64d"]


def _resnet(depth: int) -> partial[ResNet]:
    """Return the net of 6n + 2 layers: a 3x3 stem of 16, then n basic blocks each of 16, 32 and 64 features.

    Where the shape changes, the shortcut takes every second pixel and fills the new channels with zeros (option A).

    References:
      He et al., 2015, https://arxiv.org/abs/1512.03385, section 4.2.
    """
    return partial(
        ResNet,
        stage_sizes=((depth - 2) // 6,) * 3,
        block=partial(BasicBlock, projection=False),
        width=16,
        small_images=True,
        kernel_init=he_normal,
        num_classes=10,
        input_shape=(32, 32, 3),
    )


resnet20 = _resnet(20)
resnet32 = _resnet(32)
resnet44 = _resnet(44)
resnet56 = _resnet(56)
resnet110 = _resnet(110)

# Xie et al., 2016, https://arxiv.org/abs/1611.05431, section 5.3: stages of three blocks, 8 groups of 64 channels.
resnext29_8x64d = partial(
    ResNet,
    stage_sizes=(3, 3, 3),
    block=partial(BottleneckBlock, groups=8),
    small_images=True,
    num_classes=10,
    input_shape=(32, 32, 3),
)
