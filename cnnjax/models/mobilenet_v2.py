"""MobileNetV2, torchvision's and Keras's, of any width."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax import ops
from cnnjax.layers import BatchNorm, ConvNormAct, DenseHead, InvertedResidual, round_channels
from cnnjax.layers.initializers import Initializer, glorot_uniform, he_normal_fan_out
from cnnjax.models.common import check_images, headless_output

__all__ = ["mobilenet_v2", "mobilenet_v2_keras"]

# Expansion, channels, blocks and first stride: the paper's Table 2.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(nn.Module):
    """Classify images with inverted residual blocks, whose 3x3 convolutions filter each channel alone.

    | layer | output for 224 x 224 and width 1 |
    |---|---|
    | stem 3x3/2 | 112 x 112 x 32 |
    | block0 | 112 x 112 x 16 |
    | block1, block2 | 56 x 56 x 24 |
    | block3 to block5 | 28 x 28 x 32 |
    | block6 to block9; block10 to block12 | 14 x 14 x 64; 14 x 14 x 96 |
    | block13 to block15; block16 | 7 x 7 x 160; 7 x 7 x 320 |
    | last 1x1 | 7 x 7 x 1280 |
    | global average, dropout, logits | 1000 |

    The last map of each size is sown as `stage1` to `stage5`. torchvision pads strided convolutions on both sides,
    Keras as TensorFlow does (`SAME`); Keras's epsilon is 1e-3.

    Args:
      width: What every width is multiplied by, then rounded to a multiple of 8; the last 1x1 is never narrower.
      stages: Expansion, channels, blocks and first stride of each kind of block.
      same_padding: Whether strided convolutions pad as TensorFlow does.
      momentum: Share of the running statistics that a step keeps (PyTorch's is one minus this).
      epsilon: Added to the variance.
      kernel_init: Initialiser of the convolutions.
      head_init: Initialiser of the kernel of the logits.
      dropout: Rate before the logits.
      num_classes: Width of the logits.
      include_top: Whether to end in the classifier; without it the last feature map comes out.
      pooling: Without the top: `avg` or `max` over space, or None for the map itself.
      dtype: What is computed in; parameters stay float32.
      input_shape: Images that the net was published for; any size does.
    References:
      Sandler et al., 2018, https://arxiv.org/abs/1801.04381, Table 2.
    """

    width: float = 1.0
    stages: tuple[tuple[int, int, int, int], ...] = STAGES
    same_padding: bool = False
    momentum: float = 0.9
    epsilon: float = 1e-5
    kernel_init: Initializer = he_normal_fan_out
    head_init: Initializer = nn.initializers.normal(0.01)
    dropout: float = 0.2
    num_classes: int = 1000
    include_top: bool = True
    pooling: str | None = None
    dtype: jnp.dtype = jnp.float32
    input_shape: tuple[int, int, int] = (224, 224, 3)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map images `[N, H, W, C]` to logits, float32, `[N, num_classes]`."""
        check_images("mobilenet_v2", x)
        conv = partial(
            ConvNormAct,
            norm=partial(BatchNorm, momentum=self.momentum, epsilon=self.epsilon),
            act=nn.relu6,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
        )
        padding = "SAME" if self.same_padding else 1
        x = conv(round_channels(32 * self.width), 3, strides=2, padding=padding, name="stem")(x, train=train)
        number, size = 0, 1
        for expansion, channels, blocks, first in self.stages:
            for place in range(blocks):
                strides = 1 if place else first
                if strides > 1:
                    self.sow("intermediates", f"stage{size}", x)
                    size += 1
                x = InvertedResidual(
                    round_channels(channels * self.width),
                    expansion * x.shape[3],
                    strides=strides,
                    padding=padding,
                    conv=conv,
                    name=f"block{number}",
                )(x, train=train)
                number += 1
        x = conv(round_channels(1280 * max(1.0, self.width)), 1, name="last")(x, train=train)
        self.sow("intermediates", f"stage{size}", x)
        if not self.include_top:
            return headless_output(x, self.pooling)
        head = DenseHead(
            self.num_classes, dropout=(self.dropout,), kernel_init=self.head_init, dtype=self.dtype, name="head"
        )
        return head(ops.global_avg_pool(x), train=train)


mobilenet_v2 = MobileNetV2
mobilenet_v2_keras = partial(
    MobileNetV2,
    same_padding=True,
    momentum=0.999,
    epsilon=1e-3,
    kernel_init=glorot_uniform,
    head_init=glorot_uniform,
    dropout=0.0,
)
