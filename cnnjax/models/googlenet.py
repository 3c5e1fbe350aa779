"""GoogLeNet: the paper's, torchvision's, and a 32-pixel form."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax import ops
from cnnjax.layers import BatchNorm, ConvNormAct, DenseHead, InceptionBlock, LocalResponseNorm, MaxPool
from cnnjax.layers.inception import AuxiliaryHead
from cnnjax.layers.initializers import torch_uniform, torch_uniform_bias
from cnnjax.models.common import check_images, headless_output

__all__ = ["googlenet", "googlenet_cifar", "googlenet_torchvision"]

# Channels of each module, by stage: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection (the paper's Table 1).
MODULES = {
    3: {
        "3a": (64, 96, 128, 16, 32, 32),
        "3b": (128, 128, 192, 32, 96, 64),
    },
    4: {
        "4a": (192, 96, 208, 16, 48, 64),
        "4b": (160, 112, 224, 24, 64, 64),
        "4c": (128, 128, 256, 24, 64, 64),
        "4d": (112, 144, 288, 32, 64, 64),
        "4e": (256, 160, 320, 32, 128, 128),
    },
    5: {
        "5a": (256, 160, 320, 32, 128, 128),
        "5b": (384, 192, 384, 48, 128, 128),
    },
}
# After which modules an auxiliary classifier branches off, and its number.
AUXILIARY = {"4a": 1, "4d": 2}


class GoogLeNet(nn.Module):
    """Classify images with nine inception modules, each of four branches of different reach.

    | layer | 1x1 | 3x3 reduce | 3x3 | 5x5 reduce | 5x5 | pool proj | output for 224 x 224 |
    |---|---|---|---|---|---|---|---|
    | conv1 7x7/2 | | | | | | | 112 x 112 x 64 |
    | pool1 max 3/2, norm1 | | | | | | | 56 x 56 x 64 |
    | conv2 3x3, norm2 | | 64 | 192 | | | | 56 x 56 x 192 |
    | pool2 max 3/2 | | | | | | | 28 x 28 x 192 |
    | inception_3a | 64 | 96 | 128 | 16 | 32 | 32 | 28 x 28 x 256 |
    | inception_3b | 128 | 128 | 192 | 32 | 96 | 64 | 28 x 28 x 480 |
    | pool3 max 3/2 | | | | | | | 14 x 14 x 480 |
    | inception_4a, aux1 | 192 | 96 | 208 | 16 | 48 | 64 | 14 x 14 x 512 |
    | inception_4b | 160 | 112 | 224 | 24 | 64 | 64 | 14 x 14 x 512 |
    | inception_4c | 128 | 128 | 256 | 24 | 64 | 64 | 14 x 14 x 512 |
    | inception_4d, aux2 | 112 | 144 | 288 | 32 | 64 | 64 | 14 x 14 x 528 |
    | inception_4e | 256 | 160 | 320 | 32 | 128 | 128 | 14 x 14 x 832 |
    | pool4 max 3/2 | | | | | | | 7 x 7 x 832 |
    | inception_5a | 256 | 160 | 320 | 32 | 128 | 128 | 7 x 7 x 832 |
    | inception_5b | 384 | 192 | 384 | 48 | 128 | 128 | 7 x 7 x 1024 |
    | global average, dropout 0.4, logits | | | | | | | 1000 |

    | parameters for 1,000 classes | without | with auxiliary heads |
    |---|---|---|
    | `googlenet`: the paper's, with 5x5, biases, local response normalisation | 6,998,552 | 13,378,280 |
    | `googlenet_torchvision`: batch norm, 3x3 for 5x5 (a known slip), pool4 2/2 | 6,624,904 | 13,004,888 |
    | `googlenet_cifar`: batch norm and biases, two 3x3 for 5x5; 10 classes | 6,166,250 | |

    The auxiliary logits are sown as `aux_logits1` and `aux_logits2` into `intermediates`, where
    `cnnjax.training.make_train_step` finds them; evaluation runs the heads only if that collection is mutable, as in
    `cnnjax.features`. The last map of each size is sown as `stage1`, `stage2`, ... The pools' padding is Caffe's and
    torchvision's: none at the top and left, and a last window may hang over the bottom and right edge.

    Args:
      conv: Makes a convolution, a `ConvNormAct` with its options filled in.
      head: Makes the classifier, a `DenseHead` with its options filled in.
      aux_head: Makes an auxiliary classifier, an `AuxiliaryHead` with its options filled in.
      aux_logits: Whether there are auxiliary classifiers (only with the top).
      branch5_kernels: The convolutions that stand for 5x5 in the modules, by their sizes.
      local_norm: Whether local response normalisation follows pool1 and conv2.
      pool4_window: Side of pool4's window.
      small_images: Whether a 3x3 convolution of 192 stands for all before inception_3a, for 32-pixel images.
      num_classes: Width of the logits.
      include_top: Whether to end in the classifier; without it inception_5b's feature map comes out.
      pooling: Without the top: `avg` or `max` over space, or None for the map itself.
      dtype: What is computed in; parameters stay float32.
      input_shape: Images that the net was published for. Any from 31 x 31 on do; with torchvision's pool4 from 15 x 15
        on, with the stem for small images from 1 x 1 on.
    References:
      Szegedy et al., 2014, https://arxiv.org/abs/1409.4842, Table 1.
    """

    conv: Callable[..., nn.Module]
    head: Callable[..., nn.Module] = DenseHead
    aux_head: Callable[..., nn.Module] = AuxiliaryHead
    aux_logits: bool = True
    branch5_kernels: tuple[int, ...] = (5,)
    local_norm: bool = True
    pool4_window: int = 3
    small_images: bool = False
    num_classes: int = 1000
    include_top: bool = True
    pooling: str | None = None
    dtype: jnp.dtype = jnp.float32
    input_shape: tuple[int, int, int] = (224, 224, 3)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map images `[N, H, W, C]` to logits, float32, `[N, num_classes]`."""
        if self.small_images:
            check_images("googlenet", x)
        else:
            smallest, layer = (31, "pool4") if self.pool4_window == 3 else (15, "pool3")
            check_images("googlenet", x, smallest=smallest, layer=layer)
        conv = partial(self.conv, dtype=self.dtype)
        x = self._stem(x, conv, train=train)
        for stage, modules in MODULES.items():
            x = self._pool(x, f"pool{stage - 1}")
            for name, widths in modules.items():
                x = InceptionBlock(widths, self.branch5_kernels, conv, name=f"inception_{name}")(x, train=train)
                if name in AUXILIARY:
                    self._auxiliary(x, AUXILIARY[name], conv, train=train)
            self.sow("intermediates", f"stage{stage - 2 if self.small_images else stage}", x)
        if not self.include_top:
            return headless_output(x, self.pooling)
        return self.head(self.num_classes, dtype=self.dtype, name="head")(ops.global_avg_pool(x), train=train)

    def _stem(self, x: jax.Array, conv: Callable[..., nn.Module], *, train: bool) -> jax.Array:
        if self.small_images:
            return conv(192, 3, name="conv1")(x, train=train)
        x = conv(64, 7, strides=2, padding=3, name="conv1")(x, train=train)
        self.sow("intermediates", "stage1", x)
        x = self._pool(x, "pool1")
        x = LocalResponseNorm(name="norm1")(x) if self.local_norm else x
        x = conv(64, 1, name="conv2_reduce")(x, train=train)
        x = conv(192, 3, name="conv2")(x, train=train)
        self.sow("intermediates", "stage2", x)
        return LocalResponseNorm(name="norm2")(x) if self.local_norm else x

    def _pool(self, x: jax.Array, name: str) -> jax.Array:
        if self.small_images:
            return x if name == "pool2" else MaxPool(3, strides=2, padding=1, name=name)(x)
        window = self.pool4_window if name == "pool4" else 3
        # Ceil mode takes a map that is one pixel smaller than the window, too.
        bottom, right = (int(size == window - 1) for size in x.shape[1:3])
        return MaxPool(window, strides=2, padding=((0, bottom), (0, right)), ceil_mode=True, name=name)(x)

    def _auxiliary(self, x: jax.Array, number: int, conv: Callable[..., nn.Module], *, train: bool) -> None:
        # They cost nothing where nobody can read them; every mode initialises the same parameters.
        asked = train or self.is_initializing() or self.is_mutable_collection("intermediates")
        if self.aux_logits and self.include_top and asked:
            head = self.aux_head(self.num_classes, conv=conv, dtype=self.dtype, name=f"aux{number}")
            self.sow("intermediates", f"aux_logits{number}", head(x, train=train))


# The paper says nothing of its initialisation; this is that of BVLC's replication for Caffe, made with the author's
# help: "xavier", which in Caffe is uniform with variance 1 / fan_in, biases at 0.2, those of logits at 0.
_XAVIER = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
_FIFTH = nn.initializers.constant(0.2)
googlenet = partial(
    GoogLeNet,
    conv=partial(ConvNormAct, kernel_init=_XAVIER, bias_init=_FIFTH),
    head=partial(DenseHead, dropout=(0.4,), kernel_init=_XAVIER),
    aux_head=partial(AuxiliaryHead, kernel_init=_XAVIER, dense_bias_init=_FIFTH),
)

# torchvision cuts its normal distribution at -2 and 2, which are 200 standard deviations: nothing is cut.
_NARROW = nn.initializers.normal(0.01)
googlenet_torchvision = partial(
    GoogLeNet,
    conv=partial(ConvNormAct, norm=partial(BatchNorm, epsilon=1e-3), kernel_init=_NARROW),
    head=partial(DenseHead, dropout=(0.2,), kernel_init=_NARROW, bias_init=torch_uniform_bias(1024)),
    aux_head=partial(
        AuxiliaryHead,
        overlapping=False,
        kernel_init=_NARROW,
        dense_bias_init=torch_uniform_bias(2048),
        logits_bias_init=torch_uniform_bias(1024),
    ),
    branch5_kernels=(3,),
    local_norm=False,
    pool4_window=2,
)

# As in github.com/kuangliu/pytorch-cifar, models/googlenet.py, where everybody's CIFAR-10 GoogLeNet comes from. Its
# convolutions have biases, which the batch norm after them cancels; they start at 0 here. Its pools are padded by 1.
googlenet_cifar = partial(
    GoogLeNet,
    conv=partial(ConvNormAct, norm=BatchNorm, use_bias=True, kernel_init=torch_uniform),
    head=partial(DenseHead, kernel_init=torch_uniform, bias_init=torch_uniform_bias(1024)),
    aux_logits=False,
    branch5_kernels=(3, 3),
    local_norm=False,
    small_images=True,
    num_classes=10,
    input_shape=(32, 32, 3),
)
