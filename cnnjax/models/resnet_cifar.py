"""The residual paper's own nets for CIFAR-10: three narrow stages, shortcuts without parameters."""

from functools import partial

from cnnjax.layers import BasicBlock
from cnnjax.layers.initializers import he_normal
from cnnjax.models.resnet import ResNet

__all__ = ["resnet20", "resnet32", "resnet44", "resnet56", "resnet110"]


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
