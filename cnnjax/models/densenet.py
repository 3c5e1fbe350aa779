"""DenseNet, torchvision's and Keras's, and the 32-pixel form."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax import ops
from cnnjax.layers import AvgPool, BatchNorm, Conv, ConvNormAct, DenseBlock, DenseHead, MaxPool
from cnnjax.layers.initializers import Initializer, glorot_uniform, he_normal, torch_uniform
from cnnjax.models.common import check_images, headless_output

__all__ = [
    "densenet121",
    "densenet121_keras",
    "densenet169",
    "densenet169_keras",
    "densenet201",
    "densenet201_keras",
    "densenet_bc_100_12",
]


class DenseNet(nn.Module):
    """Classify images with dense blocks, in which every layer reads all that the ones before it made.

    | | 121 | 169 | 201 | output for 224 x 224 |
    |---|---|---|---|---|
    | stem 7x7/2, 64; max 3/2 | | | | 56 x 56 |
    | block1, layers of 32; transition1: 1x1 to half, average 2/2 | 6 | 6 | 6 | 28 x 28 |
    | block2, transition2 | 12 | 12 | 12 | 14 x 14 |
    | block3, transition3 | 24 | 32 | 48 | 7 x 7 |
    | block4, norm | 16 | 32 | 32 | 7 x 7 |
    | global average, logits | | | | 1000 |

    Normalisation and ReLU come before each convolution. What a block gives is sown as `stage1` to `stage4`.

    Args:
      block_sizes: Layers in each block.
      growth: Channels that a layer adds.
      width: Channels of the stem.
      small_images: Whether the stem is a plain 3x3 convolution of stride 1, for 32-pixel images.
      momentum: Share of the running statistics that a step keeps (PyTorch's is one minus this).
      epsilon: Added to the variance.
      kernel_init: Initialiser of the convolutions.
      head_init: Initialiser of the kernel of the logits.
      dropout: Rate after each layer of the blocks.
      num_classes: Width of the logits.
      include_top: Whether to end in the classifier; without it the last feature map comes out.
      pooling: Without the top: `avg` or `max` over space, or None for the map itself.
      dtype: What is computed in; parameters stay float32.
      input_shape: Images that the net was published for; any from 29 x 29 on do, for small images from 4 x 4.
    References:
      Huang et al., 2016, https://arxiv.org/abs/1608.06993, Table 1 and section 4.2 (DenseNet-BC).
    """

    block_sizes: tuple[int, ...]
    growth: int = 32
    width: int = 64
    small_images: bool = False
    momentum: float = 0.9
    epsilon: float = 1e-5
    kernel_init: Initializer = he_normal
    head_init: Initializer = torch_uniform
    dropout: float = 0.0
    num_classes: int = 1000
    include_top: bool = True
    pooling: str | None = None
    dtype: jnp.dtype = jnp.float32
    input_shape: tuple[int, int, int] = (224, 224, 3)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map images `[N, H, W, C]` to logits, float32, `[N, num_classes]`."""
        halvings, last = len(self.block_sizes) - 1, len(self.block_sizes)
        smallest = 2**halvings if self.small_images else 4 * 2**halvings - 3
        check_images("densenet", x, smallest=smallest, layer=f"transition{halvings}")
        norm = partial(BatchNorm, momentum=self.momentum, epsilon=self.epsilon)
        conv = partial(ConvNormAct, norm=norm, use_bias=False, kernel_init=self.kernel_init, dtype=self.dtype)
        x = self._stem(x, conv, train=train)
        conv = partial(conv, order="norm act conv")
        for number, size in enumerate(self.block_sizes, 1):
            block = DenseBlock(size, self.growth, conv=conv, dropout=self.dropout, name=f"block{number}")
            x = block(x, train=train)
            self.sow("intermediates", f"stage{number}", x)
            if number < last:
                x = conv(x.shape[3] // 2, 1, name=f"transition{number}")(x, train=train)
                x = AvgPool(2, name=f"transition{number}_pool")(x)
        x = nn.relu(norm(use_running_average=not train, dtype=self.dtype, name="norm")(x))
        if not self.include_top:
            return headless_output(x, self.pooling)
        head = DenseHead(self.num_classes, kernel_init=self.head_init, dtype=self.dtype, name="head")
        return head(ops.global_avg_pool(x), train=train)

    def _stem(self, x: jax.Array, conv: Callable[..., nn.Module], *, train: bool) -> jax.Array:
        if self.small_images:
            plain = Conv(
                self.width, 3, padding=1, use_bias=False, kernel_init=self.kernel_init, dtype=self.dtype, name="stem"
            )
            return plain(x)
        x = conv(self.width, 7, strides=2, padding=3, name="stem")(x, train=train)
        return MaxPool(3, strides=2, padding=1, name="stem_pool")(x)


densenet121 = partial(DenseNet, block_sizes=(6, 12, 24, 16))
densenet169 = partial(DenseNet, block_sizes=(6, 12, 32, 32))
densenet201 = partial(DenseNet, block_sizes=(6, 12, 48, 32))

_KERAS = {"momentum": 0.99, "epsilon": 1.001e-5, "kernel_init": glorot_uniform, "head_init": glorot_uniform}
densenet121_keras = partial(densenet121, **_KERAS)
densenet169_keras = partial(densenet169, **_KERAS)
densenet201_keras = partial(densenet201, **_KERAS)

# Section 4.2's DenseNet-BC of 100 layers and growth 12: a stem of two growths, blocks of (100 - 4) / 6 layers.
densenet_bc_100_12 = partial(
    DenseNet,
    block_sizes=(16, 16, 16),
    growth=12,
    width=24,
    small_images=True,
    num_classes=10,
    input_shape=(32, 32, 3),
)
