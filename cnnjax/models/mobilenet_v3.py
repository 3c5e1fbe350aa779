"""MobileNetV3, small and large, torchvision's and Keras's."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax import ops
from cnnjax.layers import (
    BatchNorm,
    ConvNormAct,
    DenseHead,
    InvertedResidual,
    SqueezeExcitation,
    hard_swish,
    round_channels,
)
from cnnjax.layers.initializers import Initializer, glorot_uniform, he_normal_fan_out
from cnnjax.models.common import check_images, headless_output

__all__ = ["mobilenet_v3_large", "mobilenet_v3_large_keras", "mobilenet_v3_small", "mobilenet_v3_small_keras"]


class Block(NamedTuple):
    """A row of the paper's Tables 1 and 2: the block's kernel, widths, gate, activation and stride."""

    kernel: int
    expanded: int
    features: int
    gated: bool
    act: Callable[[jax.Array], jax.Array]
    strides: int


LARGE = (
    Block(3, 16, 16, False, nn.relu, 1),
    Block(3, 64, 24, False, nn.relu, 2),
    Block(3, 72, 24, False, nn.relu, 1),
    Block(5, 72, 40, True, nn.relu, 2),
    Block(5, 120, 40, True, nn.relu, 1),
    Block(5, 120, 40, True, nn.relu, 1),
    Block(3, 240, 80, False, hard_swish, 2),
    Block(3, 200, 80, False, hard_swish, 1),
    Block(3, 184, 80, False, hard_swish, 1),
    Block(3, 184, 80, False, hard_swish, 1),
    Block(3, 480, 112, True, hard_swish, 1),
    Block(3, 672, 112, True, hard_swish, 1),
    Block(5, 672, 160, True, hard_swish, 2),
    Block(5, 960, 160, True, hard_swish, 1),
    Block(5, 960, 160, True, hard_swish, 1),
)
SMALL = (
    Block(3, 16, 16, True, nn.relu, 2),
    Block(3, 72, 24, False, nn.relu, 2),
    Block(3, 88, 24, False, nn.relu, 1),
    Block(5, 96, 40, True, hard_swish, 2),
    Block(5, 240, 40, True, hard_swish, 1),
    Block(5, 240, 40, True, hard_swish, 1),
    Block(5, 120, 48, True, hard_swish, 1),
    Block(5, 144, 48, True, hard_swish, 1),
    Block(5, 288, 96, True, hard_swish, 2),
    Block(5, 576, 96, True, hard_swish, 1),
    Block(5, 576, 96, True, hard_swish, 1),
)


class MobileNetV3(nn.Module):
    """Classify images with inverted residual blocks, some of them gated, and hard swish where maps are small.

    The blocks are `block0`, `block1`, ...; the last map of each size is sown as `stage1` to `stage5`. torchvision pads
    strided convolutions on both sides, Keras as TensorFlow does (`SAME`). Keras's form takes pixels 0 to 255 and
    scales them itself.

    Args:
      blocks: The blocks.
      hidden: Width of the dense layer before the logits.
      gate: What gated blocks have behind their depthwise convolution, from its width between two 1x1; None for nothing
        at all, for which the receptive field is that of the windows.
      same_padding: Whether strided convolutions pad as TensorFlow does.
      rescale: Whether pixels 0 to 255 come in and are scaled to [-1, 1].
      momentum: Share of the running statistics that a step keeps (PyTorch's is one minus this).
      kernel_init: Initialiser of the convolutions.
      head_init: Initialiser of the dense kernels.
      dropout: Rate before the logits.
      num_classes: Width of the logits.
      include_top: Whether to end in the classifier; without it the last feature map comes out.
      pooling: Without the top: `avg` or `max` over space, or None for the map itself.
      dtype: What is computed in; parameters stay float32.
      input_shape: Images that the net was published for; any size does.
    References:
      Howard et al., 2019, https://arxiv.org/abs/1905.02244, Tables 1 and 2.
    """

    blocks: tuple[Block, ...]
    hidden: int
    gate: Callable[..., SqueezeExcitation] | None = partial(SqueezeExcitation, gate=jax.nn.hard_sigmoid)
    same_padding: bool = False
    rescale: bool = False
    momentum: float = 0.99
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
        check_images("mobilenet_v3", x)
        x = x / 127.5 - 1 if self.rescale else x
        conv = partial(
            ConvNormAct,
            norm=partial(BatchNorm, momentum=self.momentum, epsilon=1e-3),
            act=hard_swish,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
        )
        x = conv(16, 3, strides=2, padding="SAME" if self.same_padding else 1, name="stem")(x, train=train)
        size = 1
        for number, block in enumerate(self.blocks):
            if block.strides > 1:
                self.sow("intermediates", f"stage{size}", x)
                size += 1
            x = self._block(block, conv, f"block{number}")(x, train=train)
        x = conv(6 * x.shape[3], 1, name="last")(x, train=train)
        self.sow("intermediates", f"stage{size}", x)
        if not self.include_top:
            return headless_output(x, self.pooling)
        head = DenseHead(
            self.num_classes,
            hidden=(self.hidden,),
            dropout=(0.0, self.dropout),
            act=hard_swish,
            kernel_init=self.head_init,
            dtype=self.dtype,
            name="head",
        )
        return head(ops.global_avg_pool(x), train=train)

    def _block(self, block: Block, conv: Callable[..., nn.Module], name: str) -> InvertedResidual:
        gate = None
        if block.gated and self.gate is not None:
            squeezed = round_channels(block.expanded / 4)
            gate = partial(self.gate, squeezed, kernel_init=self.kernel_init, dtype=self.dtype)
        return InvertedResidual(
            block.features,
            block.expanded,
            kernel_size=block.kernel,
            strides=block.strides,
            padding="SAME" if self.same_padding else None,
            conv=partial(conv, act=block.act),
            gate=gate,
            name=name,
        )


mobilenet_v3_large = partial(MobileNetV3, blocks=LARGE, hidden=1280)
mobilenet_v3_small = partial(MobileNetV3, blocks=SMALL, hidden=1024)

_KERAS = {
    "same_padding": True,
    "rescale": True,
    "momentum": 0.999,
    "kernel_init": glorot_uniform,
    "head_init": glorot_uniform,
}
mobilenet_v3_large_keras = partial(mobilenet_v3_large, **_KERAS)
mobilenet_v3_small_keras = partial(mobilenet_v3_small, **_KERAS)
