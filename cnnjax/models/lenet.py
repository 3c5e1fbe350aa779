"""LeNet-5, the net that read cheques."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.layers import Conv, MaxPool
from cnnjax.models.common import check_images, headless_output

__all__ = ["lenet5"]

# The paper's field is 32 x 32, with the 28 x 28 digit in its centre.
FIELD, SMALLEST = 32, 28


def centring(x: jax.Array) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return C1's padding: what centres images of less than the paper's field in it.

    Args:
      x: Images, `[N, H, W, C]`.
    """
    rows, columns = (max(0, FIELD - size) for size in x.shape[1:3])
    return (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)


class LeNet5(nn.Module):
    """Classify images with LeNet-5 as it is taught today: ReLU, max pooling, a dense C3, logits.

    | layer | output | parameters |
    |---|---|---|
    | C1 5x5, 6 | 28 x 28 x 6 | 156 |
    | S2 max 2/2 | 14 x 14 x 6 | |
    | C3 5x5, 16 | 10 x 10 x 16 | 2,416 |
    | S4 max 2/2 | 5 x 5 x 16 | |
    | C5 120 | 120 | 48,120 |
    | F6 84 | 84 | 10,164 |
    | output 10 | 10 | 850 |

    That is 61,706 for one channel and ten classes. An image of 28 to 31 pixels is centred in the paper's field of 32
    by C1's padding.

    Args:
      num_classes: Width of the output.
      include_top: Whether to end in the dense layers; without them S4's feature map comes out.
      pooling: Without the top: `avg` or `max` over space, or None for the map itself.
      dtype: What is computed in; parameters stay float32.
      input_shape: The paper's field; any image from 28 x 28 on does.
    References:
      LeCun et al., 1998, "Gradient-based learning applied to document recognition", section II.B.
    """

    num_classes: int = 10
    include_top: bool = True
    pooling: str | None = None
    dtype: jnp.dtype = jnp.float32
    input_shape: tuple[int, int, int] = (FIELD, FIELD, 1)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map images `[N, H, W, C]` to logits, float32, `[N, num_classes]`; `train` changes nothing here."""
        del train
        check_images("lenet5", x, smallest=SMALLEST, layer="s4")
        x = nn.relu(Conv(6, (5, 5), padding=centring(x), dtype=self.dtype, name="c1")(x))
        x = MaxPool(2, name="s2")(x)
        self.sow("intermediates", "stage1", x)
        x = nn.relu(Conv(16, (5, 5), padding="VALID", dtype=self.dtype, name="c3")(x))
        x = MaxPool(2, name="s4")(x)
        self.sow("intermediates", "stage2", x)
        if not self.include_top:
            return headless_output(x, self.pooling)
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(120, dtype=self.dtype, name="c5")(x))
        x = nn.relu(nn.Dense(84, dtype=self.dtype, name="f6")(x))
        return nn.Dense(self.num_classes, dtype=self.dtype, name="output")(x).astype(jnp.float32)


lenet5 = LeNet5
