"""ConvNeXt, torchvision's (and timm's) and Keras's."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax import ops
from cnnjax.layers import Conv, ConvNeXtBlock, DenseHead, LayerNorm
from cnnjax.layers.initializers import Initializer, glorot_uniform
from cnnjax.models.common import check_images, headless_output

__all__ = [
    "convnext_base",
    "convnext_base_keras",
    "convnext_large",
    "convnext_large_keras",
    "convnext_small",
    "convnext_small_keras",
    "convnext_tiny",
    "convnext_tiny_keras",
]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ConvNeXt(nn.Module):
    """Classify images with depthwise 7x7 convolutions between dense layers, normalised over channels.

    | | tiny | small | base | large | output for 224 x 224 |
    |---|---|---|---|---|---|
    | widths | 96 to 768 | 96 to 768 | 128 to 1024 | 192 to 1536 | |
    | stem 4x4/4, norm; stage1 | 3 | 3 | 3 | 3 | 56 x 56 |
    | norm, 2x2/2; stage2 | 3 | 3 | 3 | 3 | 28 x 28 |
    | norm, 2x2/2; stage3 | 9 | 27 | 27 | 27 | 14 x 14 |
    | norm, 2x2/2; stage4 | 3 | 3 | 3 | 3 | 7 x 7 |
    | global average, norm, logits | | | | | 1000 |

    The blocks are `stage1_block0`, ..., what lies between stages is `downsample1_norm` and `downsample1`; the stages'
    outputs are sown as `stage1` to `stage4`. Keras's form takes pixels 0 to 255 and normalises them itself, and without
    its top it ends in a normalisation too.

    Args:
      stage_sizes: Blocks in each stage.
      width: Channels of the first stage; each next one has twice as many.
      normalized: Whether pixels 0 to 255 come in and are normalised by ImageNet's mean and deviation.
      headless_norm: Whether the net without its top ends in a normalisation.
      layer_scale: What the scales of the blocks' branches start at.
      kernel_init: Initialiser of the kernels.
      drop_rate: Stochastic depth: the last block's rate, the others' in proportion to their place.
      num_classes: Width of the logits.
      include_top: Whether to end in the classifier; without it the last feature map comes out.
      pooling: Without the top: `avg` or `max` over space, or None for the map itself.
      dtype: What is computed in; parameters stay float32.
      input_shape: Images that the net was published for; any from 32 x 32 on do.
    References:
      Liu et al., 2022, https://arxiv.org/abs/2201.03545, Table 9.
    """

    stage_sizes: tuple[int, ...]
    width: int = 96
    normalized: bool = False
    headless_norm: bool = False
    layer_scale: float = 1e-6
    kernel_init: Initializer = nn.initializers.truncated_normal(0.02)
    drop_rate: float = 0.0
    num_classes: int = 1000
    include_top: bool = True
    pooling: str | None = None
    dtype: jnp.dtype = jnp.float32
    input_shape: tuple[int, int, int] = (224, 224, 3)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map images `[N, H, W, C]` to logits, float32, `[N, num_classes]`."""
        last = len(self.stage_sizes) - 1
        check_images("convnext", x, smallest=4 * 2**last, layer=f"downsample{last}")
        if self.normalized:
            mean, std = (jnp.asarray(v, x.dtype).reshape(1, 1, 1, -1) * 255 for v in (_MEAN, _STD))
            x = (x - mean) / std
        conv = partial(Conv, padding="VALID", kernel_init=self.kernel_init, dtype=self.dtype)
        norm = partial(LayerNorm, dtype=self.dtype)
        x = norm(name="stem_norm")(conv(self.width, 4, strides=4, name="stem")(x))
        blocks, done = sum(self.stage_sizes), 0
        for stage, size in enumerate(self.stage_sizes, 1):
            if stage > 1:
                x = norm(name=f"downsample{stage - 1}_norm")(x)
                x = conv(self.width * 2 ** (stage - 1), 2, strides=2, name=f"downsample{stage - 1}")(x)
            for number in range(size):
                block = ConvNeXtBlock(
                    self.layer_scale,
                    self.drop_rate * done / max(blocks - 1, 1),
                    self.kernel_init,
                    self.dtype,
                    name=f"stage{stage}_block{number}",
                )
                x, done = block(x, train=train), done + 1
            self.sow("intermediates", f"stage{stage}", x)
        if not self.include_top:
            x = headless_output(x, self.pooling)
            return norm(name="norm")(x) if self.headless_norm else x
        x = norm(name="norm")(ops.global_avg_pool(x))
        return DenseHead(self.num_classes, kernel_init=self.kernel_init, dtype=self.dtype, name="head")(x, train=train)


convnext_tiny = partial(ConvNeXt, stage_sizes=(3, 3, 9, 3), drop_rate=0.1)
convnext_small = partial(ConvNeXt, stage_sizes=(3, 3, 27, 3), drop_rate=0.4)
convnext_base = partial(ConvNeXt, stage_sizes=(3, 3, 27, 3), width=128, drop_rate=0.5)
convnext_large = partial(ConvNeXt, stage_sizes=(3, 3, 27, 3), width=192, drop_rate=0.5)

_KERAS = {"normalized": True, "headless_norm": True, "kernel_init": glorot_uniform, "drop_rate": 0.0}
convnext_tiny_keras = partial(convnext_tiny, **_KERAS)
convnext_small_keras = partial(convnext_small, **_KERAS)
convnext_base_keras = partial(convnext_base, **_KERAS)
convnext_large_keras = partial(convnext_large, **_KERAS)
