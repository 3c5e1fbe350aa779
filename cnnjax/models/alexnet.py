"""AlexNet in its one-tower form, the one with published weights."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax import ops
from cnnjax.layers import ConvNormAct, DenseHead, MaxPool
from cnnjax.layers.initializers import torch_uniform
from cnnjax.models.common import check_images, headless_output

__all__ = ["alexnet"]


class AlexNet(nn.Module):
    """Classify images with AlexNet, as torchvision publishes it after "One weird trick".

    | layer | output for 224 x 224 x 3 |
    |---|---|
    | conv1 11x11/4, 64; pool1 max 3/2 | 27 x 27 x 64 |
    | conv2 5x5, 192; pool2 max 3/2 | 13 x 13 x 192 |
    | conv3 3x3, 384 | 13 x 13 x 384 |
    | conv4 3x3, 256 | 13 x 13 x 256 |
    | conv5 3x3, 256; pool5 max 3/2 | 6 x 6 x 256 |
    | dense 4096, dense 4096, logits | 1000 |

    61,100,840 parameters with 1,000 classes. The paper of 2012 has two towers, 96 kernels in conv1 and local response
    normalisation; this is its author's simplification of 2014. A feature map of another size is averaged to 6 x 6.
    Every layer starts as PyTorch's do by default, its biases at zero.

    Args:
      num_classes: Width of the logits.
      include_top: Whether to end in the dense layers; without them pool5's feature map comes out.
      pooling: Without the top: `avg` or `max` over space, or None for the map itself.
      dropout: Rate before each of the two hidden dense layers.
      dtype: What is computed in; parameters stay float32.
      input_shape: Images that the net was published for; any from 63 x 63 on do.
    References:
      Krizhevsky, 2014, https://arxiv.org/abs/1404.5997; Krizhevsky et al., 2012.
    """

    num_classes: int = 1000
    include_top: bool = True
    pooling: str | None = None
    dropout: float = 0.5
    dtype: jnp.dtype = jnp.float32
    input_shape: tuple[int, int, int] = (224, 224, 3)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map images `[N, H, W, C]` to logits, float32, `[N, num_classes]`."""
        check_images("alexnet", x, smallest=63, layer="pool5")
        options = {"kernel_init": torch_uniform, "dtype": self.dtype}
        x = ConvNormAct(64, 11, strides=4, padding=2, name="conv1", **options)(x)
        x = MaxPool(3, strides=2, name="pool1")(x)
        self.sow("intermediates", "stage1", x)
        x = ConvNormAct(192, 5, padding=2, name="conv2", **options)(x)
        x = MaxPool(3, strides=2, name="pool2")(x)
        self.sow("intermediates", "stage2", x)
        x = ConvNormAct(384, 3, padding=1, name="conv3", **options)(x)
        x = ConvNormAct(256, 3, padding=1, name="conv4", **options)(x)
        x = ConvNormAct(256, 3, padding=1, name="conv5", **options)(x)
        x = MaxPool(3, strides=2, name="pool5")(x)
        self.sow("intermediates", "stage3", x)
        if not self.include_top:
            return headless_output(x, self.pooling)
        x = ops.adaptive_avg_pool(x, 6)
        dropout = (self.dropout, self.dropout)
        head = DenseHead(self.num_classes, hidden=(4096, 4096), dropout=dropout, name="head", **options)
        return head(x, train=train)


alexnet = AlexNet
