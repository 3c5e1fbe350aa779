"""The first net of a course: convolution, pooling, dense."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.layers import ConvNormAct, DenseHead, MaxPool
from cnnjax.models.common import check_images, headless_output

__all__ = ["simple_cnn"]


class SimpleCNN(nn.Module):
    """Classify small images with two convolutions, two pools and two dense layers.

    | layer | output for 28 x 28 x 1 | parameters |
    |---|---|---|
    | conv1 3x3, 32 | 28 x 28 x 32 | 320 |
    | pool1 max 2/2 | 14 x 14 x 32 | |
    | conv2 3x3, 64 | 14 x 14 x 64 | 18,496 |
    | pool2 max 2/2 | 7 x 7 x 64 | |
    | dense 128 | 128 | 401,536 |
    | logits 10 | 10 | 1,290 |

    Args:
      num_classes: Width of the logits.
      include_top: Whether to end in the dense layers; without them the last feature map comes out.
      pooling: Without the top: `avg` or `max` over space, or None for the map itself.
      dtype: What is computed in; parameters stay float32.
      input_shape: Images that the table is for; any from 4 x 4 on do.
    """

    num_classes: int = 10
    include_top: bool = True
    pooling: str | None = None
    dtype: jnp.dtype = jnp.float32
    input_shape: tuple[int, int, int] = (28, 28, 1)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map images `[N, H, W, C]` to logits, float32, `[N, num_classes]`; `train` changes nothing here."""
        check_images("simple_cnn", x, smallest=4, layer="pool2")
        for number, features in enumerate((32, 64), 1):
            x = ConvNormAct(features, 3, dtype=self.dtype, name=f"conv{number}")(x)
            x = MaxPool(2, name=f"pool{number}")(x)
            self.sow("intermediates", f"stage{number}", x)
        if not self.include_top:
            return headless_output(x, self.pooling)
        return DenseHead(self.num_classes, hidden=(128,), dtype=self.dtype, name="head")(x, train=train)


simple_cnn = SimpleCNN
