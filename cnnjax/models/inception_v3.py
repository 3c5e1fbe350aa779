"""InceptionV3, Keras's and torchvision's."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax import ops
from cnnjax.layers import BatchNorm, ConvNormAct, DenseHead, MaxPool
from cnnjax.layers.inception_v3 import (
    AUXILIARY_MAP,
    AuxiliaryHeadV3,
    InceptionA,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)
from cnnjax.layers.initializers import glorot_uniform, torch_uniform_bias
from cnnjax.models.common import check_images, headless_output

__all__ = ["inception_v3", "inception_v3_torchvision"]

STAGES = {
    3: {
        "mixed_5b": partial(InceptionA, pool_features=32),
        "mixed_5c": InceptionA,
        "mixed_5d": InceptionA,
    },
    4: {
        "mixed_6a": InceptionB,
        "mixed_6b": partial(InceptionC, width=128),
        "mixed_6c": partial(InceptionC, width=160),
        "mixed_6d": partial(InceptionC, width=160),
        "mixed_6e": InceptionC,
    },
    5: {
        "mixed_7a": InceptionD,
        "mixed_7b": InceptionE,
        "mixed_7c": InceptionE,
    },
}
# The smallest image whose map after stage 4 the auxiliary classifier can read.
_AUXILIARY_IMAGE = 299


class InceptionV3(nn.Module):
    """Classify images with inception modules whose convolutions are factorised.

    | layer | output for 299 x 299 |
    |---|---|
    | conv_1a 3x3/2, 32; conv_2a 3x3, 32; conv_2b 3x3 padded, 64 | 147 x 147 x 64 |
    | pool1 max 3/2; conv_3b 1x1, 80; conv_4a 3x3, 192 | 71 x 71 x 192 |
    | pool2 max 3/2 | 35 x 35 x 192 |
    | mixed_5b, mixed_5c, mixed_5d: 1x1, 5x5, two 3x3, pool | 35 x 35 x 256, 288, 288 |
    | mixed_6a: 3x3/2, two 3x3/2, pool | 17 x 17 x 768 |
    | mixed_6b to mixed_6e: 1x1, 1x7 and 7x1, twice that, pool; aux1 | 17 x 17 x 768 |
    | mixed_7a: 3x3/2, 7x7 and 3x3/2, pool | 8 x 8 x 1280 |
    | mixed_7b, mixed_7c: 1x1, 1x3 beside 3x1, 3x3 before these, pool | 8 x 8 x 2048 |
    | global average, dropout, logits | 1000 |

    Only padding that is named pads: the rest of the stem and every stride of 2 are VALID. Nothing scales the images in
    here; torchvision's weights expect a transform that `cnnjax.pretrained.preprocess` knows.

    | for 1,000 classes | parameters | running statistics |
    |---|---|---|
    | `inception_v3`: Keras's, batch norm without scale, pools that don't count padding | 23,817,352 | 34,432 |
    | `inception_v3_torchvision`: batch norm with scale, pools that count padding | 23,834,568 | 34,432 |
    | the same with its auxiliary classifier | 27,161,264 | 36,224 |

    The auxiliary logits are sown as `aux_logits1` into `intermediates`, where `cnnjax.training.make_train_step` finds
    them; evaluation runs the head only if that collection is mutable, as in `cnnjax.features`, and the image is large
    enough. The last map of each size is sown as `stage1` to `stage5`.

    Args:
      conv: Makes a convolution, a `ConvNormAct` with its options filled in.
      head: Makes the classifier, a `DenseHead` with its options filled in.
      aux_head: Makes the auxiliary classifier, an `AuxiliaryHeadV3` with its options filled in.
      aux_logits: Whether there is an auxiliary classifier (only with the top).
      count_include_pad: Whether average pools count their padding.
      num_classes: Width of the logits.
      include_top: Whether to end in the classifier; without it mixed_7c's feature map comes out.
      pooling: Without the top: `avg` or `max` over space, or None for the map itself.
      dtype: What is computed in; parameters stay float32.
      input_shape: Images that the net was published for; any from 75 x 75 on do, and from 299 x 299 on for training
        with the auxiliary classifier.
    References:
      Szegedy et al., 2015, https://arxiv.org/abs/1512.00567, Table 1.
    """

    conv: Callable[..., nn.Module]
    head: Callable[..., nn.Module] = DenseHead
    aux_head: Callable[..., nn.Module] = AuxiliaryHeadV3
    aux_logits: bool = False
    count_include_pad: bool = False
    num_classes: int = 1000
    include_top: bool = True
    pooling: str | None = None
    dtype: jnp.dtype = jnp.float32
    input_shape: tuple[int, int, int] = (299, 299, 3)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map images `[N, H, W, C]` to logits, float32, `[N, num_classes]`."""
        check_images("inception_v3", x, smallest=75, layer="mixed_7a")
        auxiliary = self.aux_logits and self.include_top
        if auxiliary and train and not self.is_initializing():
            layer = "aux1 (which aux_logits=False leaves out)"
            check_images("inception_v3", x, smallest=_AUXILIARY_IMAGE, layer=layer)
        conv = partial(self.conv, dtype=self.dtype)
        x = self._stem(x, conv, train=train)
        for stage, blocks in STAGES.items():
            for name, block in blocks.items():
                x = block(conv, self.count_include_pad, name=name)(x, train=train)
            if stage == 4 and auxiliary:
                self._auxiliary(x, conv, train=train)
            self.sow("intermediates", f"stage{stage}", x)
        if not self.include_top:
            return headless_output(x, self.pooling)
        return self.head(self.num_classes, dtype=self.dtype, name="head")(ops.global_avg_pool(x), train=train)

    def _stem(self, x: jax.Array, conv: Callable[..., nn.Module], *, train: bool) -> jax.Array:
        x = conv(32, 3, strides=2, padding="VALID", name="conv_1a")(x, train=train)
        x = conv(32, 3, padding="VALID", name="conv_2a")(x, train=train)
        x = conv(64, 3, padding=1, name="conv_2b")(x, train=train)
        self.sow("intermediates", "stage1", x)
        x = MaxPool(3, strides=2, name="pool1")(x)
        x = conv(80, 1, name="conv_3b")(x, train=train)
        x = conv(192, 3, padding="VALID", name="conv_4a")(x, train=train)
        self.sow("intermediates", "stage2", x)
        return MaxPool(3, strides=2, name="pool2")(x)

    def _auxiliary(self, x: jax.Array, conv: Callable[..., nn.Module], *, train: bool) -> None:
        if self.is_initializing():
            # Its parameters are the same for every image, also for one that is too small to train it.
            x = jnp.zeros((1, AUXILIARY_MAP, AUXILIARY_MAP, x.shape[3]), x.dtype)
        elif not train and (not self.is_mutable_collection("intermediates") or min(x.shape[1:3]) < AUXILIARY_MAP):
            # It costs nothing where nobody can read it.
            return
        head = self.aux_head(self.num_classes, conv=conv, dtype=self.dtype, name="aux1")
        self.sow("intermediates", "aux_logits1", head(x, train=train))


inception_v3 = partial(
    InceptionV3,
    conv=partial(
        ConvNormAct,
        norm=partial(BatchNorm, momentum=0.99, epsilon=1e-3, use_scale=False),
        kernel_init=glorot_uniform,
    ),
    head=partial(DenseHead, kernel_init=glorot_uniform),
)

# torchvision cuts its normal distributions at -2 and 2, which are 20 standard deviations and more: nothing is cut.
_NORMAL = nn.initializers.normal
inception_v3_torchvision = partial(
    InceptionV3,
    conv=partial(ConvNormAct, norm=partial(BatchNorm, epsilon=1e-3), kernel_init=_NORMAL(0.1)),
    head=partial(DenseHead, dropout=(0.5,), kernel_init=_NORMAL(0.1), bias_init=torch_uniform_bias(2048)),
    aux_head=partial(
        AuxiliaryHeadV3,
        last_kernel_init=_NORMAL(0.01),
        kernel_init=_NORMAL(0.001),
        bias_init=torch_uniform_bias(768),
    ),
    aux_logits=True,
    count_include_pad=True,
)
