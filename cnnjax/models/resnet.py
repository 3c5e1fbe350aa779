"""Residual nets for ImageNet: v1.5 (torchvision's), v1 (the paper's and Keras's), their grouped, wide and gated kin."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax import ops
from cnnjax.layers import (
    BasicBlock,
    BatchNorm,
    BottleneckBlock,
    ConvNormAct,
    DenseHead,
    MaxPool,
    SqueezeExcitation,
    round_channels,
)
from cnnjax.layers.initializers import Initializer, glorot_uniform, he_normal_fan_out
from cnnjax.models.common import check_images, headless_output

__all__ = [
    "resnet18",
    "resnet18_cifar",
    "resnet34",
    "resnet50",
    "resnet50_v1",
    "resnet50d",
    "resnet101",
    "resnet101_v1",
    "resnet152",
    "resnet152_v1",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "seresnet50",
    "wide_resnet50_2",
    "wide_resnet101_2",
]


def se_gate(channels: int, name: str, ratio: float = 1 / 16) -> SqueezeExcitation:
    """Return the gate that SE-ResNet's branches end in (timm's `SEModule`)."""
    return SqueezeExcitation(round_channels(channels * ratio, most_lost=1), name=name)


class ResNet(nn.Module):
    """Classify images with stages of residual blocks; each stage halves the map and doubles the width.

    | | 18 | 34 | 50 | 101 | 152 | output for 224 x 224 |
    |---|---|---|---|---|---|---|
    | stem 7x7/2, 64; max 3/2 | | | | | | 56 x 56 |
    | stage1, 64 | 2 | 3 | 3 | 3 | 3 | 56 x 56 |
    | stage2, 128 | 2 | 4 | 4 | 4 | 8 | 28 x 28 |
    | stage3, 256 | 2 | 6 | 6 | 23 | 36 | 14 x 14 |
    | stage4, 512 | 2 | 3 | 3 | 3 | 3 | 7 x 7 |
    | global average, logits | | | | | | 1000 |

    18 and 34 have basic blocks, the others bottleneck blocks, whose outputs are four times as wide. Where v1.5 has the
    stride of a bottleneck in its 3x3 convolution, v1 has it in the first 1x1: the weights' shapes are the same, the
    results are not. Keras's v1 has biases in its convolutions too.

    `resnext50_32x4d` has 32 groups of 4 channels in its 3x3, `wide_resnet50_2` twice the width there; `seresnet50` ends
    every branch in a gate; `resnet50d` has three 3x3 for the stem's 7x7 and averages before a shortcut's 1x1.

    Args:
      stage_sizes: Blocks in each stage.
      block: `BasicBlock` or `BottleneckBlock`, with its options filled in.
      width: Channels of the stem and width of the first stage's blocks.
      small_images: Whether the stem is a 3x3 convolution of stride 1 without a pool, for 32-pixel images.
      deep_stem: Whether three 3x3 convolutions, of half, half and all the width, stand for the stem's 7x7.
      gate: What each block's branch ends in, from its channels and a name: `se_gate`, or None.
      use_bias: Whether convolutions have a bias.
      momentum: Share of the running statistics that a step keeps (PyTorch's is one minus this).
      epsilon: Added to the variance.
      kernel_init: Initialiser of the convolutions.
      zero_gamma: Whether every block starts as its shortcut (Goyal et al., 2017, https://arxiv.org/abs/1706.02677).
      drop_rate: Stochastic depth: the last block's rate, the others' in proportion to their place.
      num_classes: Width of the logits.
      include_top: Whether to end in the classifier; without it the last feature map comes out.
      pooling: Without the top: `avg` or `max` over space, or None for the map itself.
      dtype: What is computed in; parameters stay float32.
      input_shape: Images that the net was published for; any size does.
    References:
      He et al., 2015, https://arxiv.org/abs/1512.03385, Table 1.
      Xie et al., 2016, https://arxiv.org/abs/1611.05431 (ResNeXt).
      Zagoruyko and Komodakis, 2016, https://arxiv.org/abs/1605.07146 (wide).
      Hu et al., 2017, https://arxiv.org/abs/1709.01507 (SE).
      He et al., 2018, https://arxiv.org/abs/1812.01187, figure 2 (ResNet-D).
    """

    stage_sizes: tuple[int, ...]
    block: Callable[..., nn.Module]
    width: int = 64
    small_images: bool = False
    deep_stem: bool = False
    gate: Callable[..., nn.Module] | None = None
    use_bias: bool = False
    momentum: float = 0.9
    epsilon: float = 1e-5
    kernel_init: Initializer = he_normal_fan_out
    zero_gamma: bool = False
    drop_rate: float = 0.0
    num_classes: int = 1000
    include_top: bool = True
    pooling: str | None = None
    dtype: jnp.dtype = jnp.float32
    input_shape: tuple[int, int, int] = (224, 224, 3)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map images `[N, H, W, C]` to logits, float32, `[N, num_classes]`."""
        check_images("resnet", x)
        norm = partial(BatchNorm, momentum=self.momentum, epsilon=self.epsilon)
        conv = partial(ConvNormAct, norm=norm, use_bias=self.use_bias, kernel_init=self.kernel_init, dtype=self.dtype)
        x = self._stem(x, conv, train=train)
        block = partial(self.block, conv=conv, zero_gamma=self.zero_gamma, gate=self.gate)
        blocks, done = sum(self.stage_sizes), 0
        for stage, size in enumerate(self.stage_sizes, 1):
            for number in range(size):
                done += 1
                x = block(
                    self.width * 2 ** (stage - 1),
                    strides=2 if stage > 1 and number == 0 else 1,
                    drop_rate=self.drop_rate * done / blocks,
                    name=f"stage{stage}_block{number}",
                )(x, train=train)
            self.sow("intermediates", f"stage{stage}", x)
        if not self.include_top:
            return headless_output(x, self.pooling)
        return DenseHead(self.num_classes, dtype=self.dtype, name="head")(ops.global_avg_pool(x), train=train)

    def _stem(self, x: jax.Array, conv: Callable[..., nn.Module], *, train: bool) -> jax.Array:
        if self.small_images:
            return conv(self.width, 3, padding=1, name="stem")(x, train=train)
        if self.deep_stem:
            x = conv(self.width // 2, 3, strides=2, padding=1, name="stem1")(x, train=train)
            x = conv(self.width // 2, 3, padding=1, name="stem2")(x, train=train)
            x = conv(self.width, 3, padding=1, name="stem")(x, train=train)
        else:
            x = conv(self.width, 7, strides=2, padding=3, name="stem")(x, train=train)
        return MaxPool(3, strides=2, padding=1, name="stem_pool")(x)


resnet18 = partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock)
resnet34 = partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BasicBlock)
resnet50 = partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BottleneckBlock)
resnet101 = partial(ResNet, stage_sizes=(3, 4, 23, 3), block=BottleneckBlock)
resnet152 = partial(ResNet, stage_sizes=(3, 8, 36, 3), block=BottleneckBlock)

resnext50_32x4d = partial(resnet50, block=partial(BottleneckBlock, groups=32, group_width=4))
resnext101_32x8d = partial(resnet101, block=partial(BottleneckBlock, groups=32, group_width=8))
wide_resnet50_2 = partial(resnet50, block=partial(BottleneckBlock, group_width=128))
wide_resnet101_2 = partial(resnet101, block=partial(BottleneckBlock, group_width=128))
# timm's names and forms.
seresnet50 = partial(resnet50, gate=se_gate)
resnet50d = partial(resnet50, block=partial(BottleneckBlock, average=True), deep_stem=True)

_V1 = partial(
    ResNet,
    block=partial(BottleneckBlock, stride_first=True),
    use_bias=True,
    momentum=0.99,
    epsilon=1.001e-5,
    kernel_init=glorot_uniform,
)
resnet50_v1 = partial(_V1, stage_sizes=(3, 4, 6, 3))
resnet101_v1 = partial(_V1, stage_sizes=(3, 4, 23, 3))
resnet152_v1 = partial(_V1, stage_sizes=(3, 8, 36, 3))

resnet18_cifar = partial(resnet18, small_images=True, num_classes=10, input_shape=(32, 32, 3))
