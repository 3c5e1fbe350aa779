"""VGG: nothing but 3x3 convolutions, in five stages."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax import ops
from cnnjax.layers import BatchNorm, ConvNormAct, DenseHead, MaxPool
from cnnjax.layers.initializers import he_normal_fan_out
from cnnjax.models.common import check_images, headless_output

__all__ = [
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg16_cifar",
    "vgg19",
    "vgg19_bn",
]

FEATURES = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Classify images with stages of 3x3 convolutions, each stage ended by a 2/2 max pool.

    | | vgg11 (A) | vgg13 (B) | vgg16 (D) | vgg19 (E) | output for 224 x 224 |
    |---|---|---|---|---|---|
    | stage1, 64 | 1 | 2 | 2 | 2 | 112 x 112 |
    | stage2, 128 | 1 | 2 | 2 | 2 | 56 x 56 |
    | stage3, 256 | 2 | 2 | 3 | 4 | 28 x 28 |
    | stage4, 512 | 2 | 2 | 3 | 4 | 14 x 14 |
    | stage5, 512 | 2 | 2 | 3 | 4 | 7 x 7 |
    | dense 4096, dense 4096, logits | | | | | 1000 |

    A feature map of another size is averaged to 7 x 7, as in torchvision. With batch normalisation the convolutions
    keep their biases, also as there.

    Args:
      stage_sizes: Convolutions in each stage.
      batch_norm: Whether each convolution is followed by batch normalisation (not in the paper).
      hidden: Widths of the dense layers before the logits.
      dropout: Rate after each of them.
      map_size: Side of the feature map that the dense layers read.
      num_classes: Width of the logits.
      include_top: Whether to end in the dense layers; without them the last feature map comes out.
      pooling: Without the top: `avg` or `max` over space, or None for the map itself.
      dtype: What is computed in; parameters stay float32.
      input_shape: Images that the net was published for; any from 32 x 32 on do.
    References:
      Simonyan and Zisserman, 2014, https://arxiv.org/abs/1409.1556, Table 1.
    """

    stage_sizes: tuple[int, ...]
    batch_norm: bool = False
    hidden: tuple[int, ...] = (4096, 4096)
    dropout: float = 0.5
    map_size: int = 7
    num_classes: int = 1000
    include_top: bool = True
    pooling: str | None = None
    dtype: jnp.dtype = jnp.float32
    input_shape: tuple[int, int, int] = (224, 224, 3)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map images `[N, H, W, C]` to logits, float32, `[N, num_classes]`."""
        check_images("vgg", x, smallest=32, layer="stage5_pool")
        norm = BatchNorm if self.batch_norm else None
        conv = partial(
            ConvNormAct, norm=norm, use_bias=True, padding=1, kernel_init=he_normal_fan_out, dtype=self.dtype
        )
        for stage, (size, features) in enumerate(zip(self.stage_sizes, FEATURES, strict=True), 1):
            for number in range(1, size + 1):
                x = conv(features, 3, name=f"stage{stage}_conv{number}")(x, train=train)
            x = MaxPool(2, name=f"stage{stage}_pool")(x)
            self.sow("intermediates", f"stage{stage}", x)
        if not self.include_top:
            return headless_output(x, self.pooling)
        x = ops.adaptive_avg_pool(x, self.map_size)
        head = DenseHead(
            self.num_classes,
            hidden=self.hidden,
            dropout=(0.0, *[self.dropout] * len(self.hidden)),
            kernel_init=nn.initializers.normal(0.01),
            dtype=self.dtype,
            name="head",
        )
        return head(x, train=train)


vgg11 = partial(VGG, stage_sizes=(1, 1, 2, 2, 2))
vgg13 = partial(VGG, stage_sizes=(2, 2, 2, 2, 2))
vgg16 = partial(VGG, stage_sizes=(2, 2, 3, 3, 3))
vgg19 = partial(VGG, stage_sizes=(2, 2, 4, 4, 4))
vgg11_bn = partial(vgg11, batch_norm=True)
vgg13_bn = partial(vgg13, batch_norm=True)
vgg16_bn = partial(vgg16, batch_norm=True)
vgg19_bn = partial(vgg19, batch_norm=True)
# For 32-pixel images the map is a single pixel, and the logits are the only dense layer: K. Liu's pytorch-cifar, the
# form in which VGG-16 is usually compared on CIFAR-10; 14,728,266 parameters.
vgg16_cifar = partial(vgg16_bn, hidden=(), map_size=1, num_classes=10, input_shape=(32, 32, 3))
