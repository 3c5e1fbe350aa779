"""Wide residual nets for CIFAR, whose blocks normalise before they convolve."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax import ops
from cnnjax.layers import BatchNorm, Conv, DenseHead, PreActivationBlock
from cnnjax.layers.initializers import he_normal
from cnnjax.models.common import check_images, headless_output

__all__ = ["wide_resnet28_10"]


class WideResNet(nn.Module):
    """Classify small images with three stages of a few wide pre-activation blocks.

    | | output for 32 x 32 |
    |---|---|
    | stem 3x3, 16 | 32 x 32 |
    | stage1, 16 times the widening | 32 x 32 |
    | stage2, 32 times | 16 x 16 |
    | stage3, 64 times; norm | 8 x 8 |
    | global average, logits | 10 |

    Args:
      stage_sizes: Blocks in each stage: `(depth - 4) / 6`.
      widening: What the widths of 16, 32 and 64 are multiplied by.
      dropout: Rate between the two convolutions of a block (the paper's 0.3, or 0).
      momentum: Share of the running statistics that a step keeps (PyTorch's is one minus this).
      num_classes: Width of the logits.
      include_top: Whether to end in the classifier; without it the last feature map comes out.
      pooling: Without the top: `avg` or `max` over space, or None for the map itself.
      dtype: What is computed in; parameters stay float32.
      input_shape: Images that the net was published for; any size does.
    References:
      Zagoruyko and Komodakis, 2016, https://arxiv.org/abs/1605.07146, Table 1.
    """

    stage_sizes: tuple[int, ...]
    widening: int
    dropout: float = 0.0
    momentum: float = 0.9
    num_classes: int = 10
    include_top: bool = True
    pooling: str | None = None
    dtype: jnp.dtype = jnp.float32
    input_shape: tuple[int, int, int] = (32, 32, 3)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map images `[N, H, W, C]` to logits, float32, `[N, num_classes]`."""
        check_images("wide_resnet", x)
        norm = partial(BatchNorm, use_running_average=not train, momentum=self.momentum, dtype=self.dtype)
        conv = partial(Conv, use_bias=False, kernel_init=he_normal, dtype=self.dtype)
        x = conv(16, 3, padding=1, name="stem")(x)
        for stage, size in enumerate(self.stage_sizes, 1):
            for number in range(size):
                block = PreActivationBlock(
                    16 * 2 ** (stage - 1) * self.widening,
                    strides=2 if stage > 1 and number == 0 else 1,
                    conv=conv,
                    norm=norm,
                    dropout=self.dropout,
                    name=f"stage{stage}_block{number}",
                )
                x = block(x, train=train)
            self.sow("intermediates", f"stage{stage}", x)
        x = nn.relu(norm(name="norm")(x))
        if not self.include_top:
            return headless_output(x, self.pooling)
        return DenseHead(self.num_classes, dtype=self.dtype, name="head")(ops.global_avg_pool(x), train=train)


wide_resnet28_10 = partial(WideResNet, stage_sizes=(4, 4, 4), widening=10)
