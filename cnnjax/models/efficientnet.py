"""EfficientNet-B0 to B7, torchvision's and Keras's."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax import ops
from cnnjax.layers import BatchNorm, ConvNormAct, DenseHead, InvertedResidual, SqueezeExcitation, round_channels
from cnnjax.layers.initializers import Initializer, he_normal_fan_out
from cnnjax.models.common import check_images, headless_output

__all__ = [
    "efficientnet_b0",
    "efficientnet_b0_keras",
    "efficientnet_b1",
    "efficientnet_b1_keras",
    "efficientnet_b2",
    "efficientnet_b2_keras",
    "efficientnet_b3",
    "efficientnet_b3_keras",
    "efficientnet_b4",
    "efficientnet_b4_keras",
    "efficientnet_b5",
    "efficientnet_b5_keras",
    "efficientnet_b6",
    "efficientnet_b6_keras",
    "efficientnet_b7",
    "efficientnet_b7_keras",
]

# Expansion, kernel, first stride, channels and blocks of each stage: the paper's Table 1.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_HEAD = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")
_STD = (0.229, 0.224, 0.225)


class EfficientNet(nn.Module):
    """Classify images with gated inverted residual blocks; width, depth and image size grow together.

    | | B0 | B1 | B2 | B3 | B4 | B5 | B6 | B7 |
    |---|---|---|---|---|---|---|---|---|
    | width | 1.0 | 1.0 | 1.1 | 1.2 | 1.4 | 1.6 | 1.8 | 2.0 |
    | depth | 1.0 | 1.1 | 1.2 | 1.4 | 1.8 | 2.2 | 2.6 | 3.1 |
    | image, Keras | 224 | 240 | 260 | 300 | 380 | 456 | 528 | 600 |
    | image, torchvision | 224 | 240 | 288 | 300 | 380 | 456 | 528 | 600 |

    The blocks are `stage1_block0`, `stage2_block0`, ...; the output of each of the seven stages is sown as `stage1` to
    `stage7`. torchvision pads strided convolutions on both sides, Keras as TensorFlow does (`SAME`); epsilon is 1e-3,
    but 1e-5 in torchvision's B0 to B4.

    Keras's form takes pixels 0 to 255: it divides them by 255, normalises them with statistics that are part of the
    weights (`normalization`, which no training changes) and multiplies them by `input_scale`, as Keras does in its nets
    with ImageNet's weights. For weights of a net that was made with `weights=None` take `input_scale=None`.

    Args:
      width: What every width is multiplied by, then rounded to a multiple of 8.
      depth: What the number of blocks of each stage is multiplied by, then rounded up.
      stages: Expansion, kernel, first stride, channels and blocks of each stage.
      gate: What the blocks have behind their depthwise convolution, from its width between two 1x1; None for nothing,
        for which the receptive field is that of the windows.
      same_padding: Whether strided convolutions pad as TensorFlow does.
      normalized: Whether pixels 0 to 255 come in and are normalised by the net.
      input_scale: By what each channel of normalised pixels is multiplied; None for 1.
      momentum: Share of the running statistics that a step keeps (PyTorch's is one minus this).
      epsilon: Added to the variance.
      kernel_init: Initialiser of the convolutions.
      drop_rate: Stochastic depth: the rate that the blocks' rates grow to, in proportion to their place.
      dropout: Rate before the logits.
      num_classes: Width of the logits.
      include_top: Whether to end in the classifier; without it the last feature map comes out.
      pooling: Without the top: `avg` or `max` over space, or None for the map itself.
      dtype: What is computed in; parameters stay float32.
      input_shape: Images that the net was published for; any size does.
    References:
      Tan and Le, 2019, https://arxiv.org/abs/1905.11946, Table 1.
    """

    width: float = 1.0
    depth: float = 1.0
    stages: tuple[tuple[int, int, int, int, int], ...] = STAGES
    gate: Callable[..., SqueezeExcitation] | None = partial(SqueezeExcitation, act=nn.silu)
    same_padding: bool = False
    normalized: bool = False
    input_scale: tuple[float, float, float] | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    kernel_init: Initializer = he_normal_fan_out
    drop_rate: float = 0.2
    dropout: float = 0.2
    num_classes: int = 1000
    include_top: bool = True
    pooling: str | None = None
    dtype: jnp.dtype = jnp.float32
    input_shape: tuple[int, int, int] = (224, 224, 3)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map images `[N, H, W, C]` to logits, float32, `[N, num_classes]`."""
        check_images("efficientnet", x)
        conv = partial(
            ConvNormAct,
            norm=partial(BatchNorm, momentum=self.momentum, epsilon=self.epsilon),
            act=nn.silu,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
        )
        x = self._normalize(x) if self.normalized else x
        padding = "SAME" if self.same_padding else 1
        x = conv(round_channels(32 * self.width), 3, strides=2, padding=padding, name="stem")(x, train=train)
        sizes = self.stage_sizes
        done = 0
        for stage, (row, size) in enumerate(zip(self.stages, sizes, strict=True), 1):
            for number in range(size):
                rate = self.drop_rate * done / sum(sizes)
                block = self._block(x.shape[3], row, number, rate, conv, f"stage{stage}_block{number}")
                x, done = block(x, train=train), done + 1
            self.sow("intermediates", f"stage{stage}", x)
        x = conv(4 * x.shape[3], 1, name="last")(x, train=train)
        if not self.include_top:
            return headless_output(x, self.pooling)
        head = DenseHead(self.num_classes, dropout=(self.dropout,), kernel_init=_HEAD, dtype=self.dtype, name="head")
        return head(ops.global_avg_pool(x), train=train)

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return tuple(math.ceil(row[4] * self.depth) for row in self.stages)

    def _normalize(self, x: jax.Array) -> jax.Array:
        plain = BatchNorm(True, epsilon=0.0, use_bias=False, use_scale=False, name="normalization")
        x = plain(x / 255)
        return x if self.input_scale is None else x * jnp.asarray(self.input_scale, x.dtype).reshape(1, 1, 1, -1)

    def _block(
        self, channels: int, row: tuple[int, ...], number: int, rate: float, conv: Callable[..., nn.Module], name: str
    ) -> InvertedResidual:
        expansion, kernel, strides, features, _ = row
        gate = None
        if self.gate is not None:
            squeezed = max(1, channels // 4)
            gate = partial(self.gate, squeezed, kernel_init=self.kernel_init, dtype=self.dtype)
        return InvertedResidual(
            round_channels(features * self.width),
            expansion * channels,
            kernel_size=kernel,
            strides=1 if number else strides,
            padding="SAME" if self.same_padding else None,
            conv=conv,
            gate=gate,
            drop_rate=rate,
            name=name,
        )


def _net(width: float, depth: float, size: int, dropout: float) -> partial[EfficientNet]:
    return partial(EfficientNet, width=width, depth=depth, dropout=dropout, input_shape=(size, size, 3))


_SLOW_STATISTICS = {"momentum": 0.99, "epsilon": 1e-3}
efficientnet_b0 = _net(1.0, 1.0, 224, 0.2)
efficientnet_b1 = _net(1.0, 1.1, 240, 0.2)
efficientnet_b2 = _net(1.1, 1.2, 288, 0.3)
efficientnet_b3 = _net(1.2, 1.4, 300, 0.3)
efficientnet_b4 = _net(1.4, 1.8, 380, 0.4)
efficientnet_b5 = partial(_net(1.6, 2.2, 456, 0.4), **_SLOW_STATISTICS)
efficientnet_b6 = partial(_net(1.8, 2.6, 528, 0.5), **_SLOW_STATISTICS)
efficientnet_b7 = partial(_net(2.0, 3.1, 600, 0.5), **_SLOW_STATISTICS)

_KERAS = {
    **_SLOW_STATISTICS,
    "same_padding": True,
    "normalized": True,
    "input_scale": tuple(std**-0.5 for std in _STD),
    "kernel_init": nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal"),
}
efficientnet_b0_keras = partial(efficientnet_b0, **_KERAS)
efficientnet_b1_keras = partial(efficientnet_b1, **_KERAS)
efficientnet_b2_keras = partial(efficientnet_b2, **_KERAS, input_shape=(260, 260, 3))
efficientnet_b3_keras = partial(efficientnet_b3, **_KERAS)
efficientnet_b4_keras = partial(efficientnet_b4, **_KERAS)
efficientnet_b5_keras = partial(efficientnet_b5, **_KERAS)
efficientnet_b6_keras = partial(efficientnet_b6, **_KERAS)
efficientnet_b7_keras = partial(efficientnet_b7, **_KERAS)
