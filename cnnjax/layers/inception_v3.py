"""Inception blocks of 2015, with factorised convolutions: A to E, as torchvision calls them, and their auxiliary head.

A, C and E keep the map's size; B and D halve it. Their branches have the names that torchvision gives them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from cnnjax import ops
from cnnjax.layers.conv import ConvNormAct, Size
from cnnjax.layers.initializers import Initializer
from cnnjax.layers.pool import AvgPool, MaxPool


class FactorizedBlock(nn.Module):
    """Concatenate branches of convolutions; see the five blocks below.

    Args:
      conv: Makes a convolution, a `ConvNormAct` with its options filled in.
      count_include_pad: Whether the average pool counts its padding (torchvision) or does not (Keras).
    References:
      Szegedy et al., 2015, https://arxiv.org/abs/1512.00567, figures 5 to 7 and 10.
    """

    conv: Callable[..., nn.Module] = ConvNormAct
    count_include_pad: bool = False

    def branches(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
        """Map `[N, H, W, C]` to what is concatenated."""
        raise TypeError("FactorizedBlock: expected a block with branches. Use InceptionA, B, C, D or E.")

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool = False) -> Float[Array, "n h2 w2 o"]:
        """Map `[N, H, W, C]` to `[N, H', W', C']`."""
        return jnp.concatenate(self.branches(x, train=train), axis=-1)

    def chain(self, x: jax.Array, name: str, *layers: tuple[int, Size], train: bool, halve: bool = False) -> jax.Array:
        """Convolve with layers of (features, kernel size), called `name_1`, `name_2`, ..., or `name` if there is one.

        Args:
          x: `[N, H, W, C]`.
          name: Of the branch.
          *layers: Features and kernel size of each.
          train: Whether to take the batch's own statistics.
          halve: Whether the last one has a stride of 2 and no padding.
        """
        for number, (features, kernel) in enumerate(layers, 1):
            strides, padding = (2, "VALID") if halve and number == len(layers) else (1, "SAME")
            layer = f"{name}_{number}" if len(layers) > 1 else name
            x = self.conv(features, kernel, strides=strides, padding=padding, name=layer)(x, train=train)
        return x

    def fork(self, x: jax.Array, name: str, features: int, *, train: bool) -> jax.Array:
        """Concatenate a 1x3 and a 3x1 convolution of the same map, called `name` with an a and a b."""
        wide = self.conv(features, (1, 3), name=f"{name}a")(x, train=train)
        tall = self.conv(features, (3, 1), name=f"{name}b")(x, train=train)
        return jnp.concatenate([wide, tall], axis=-1)

    def pooled(self, x: jax.Array, features: int, *, train: bool) -> jax.Array:
        """Average 3x3 pixels at stride 1, then project."""
        x = AvgPool(3, strides=1, padding=1, count_include_pad=self.count_include_pad, name="pool")(x)
        return self.chain(x, "branch_pool", (features, 1), train=train)


class InceptionA(FactorizedBlock):
    """1x1; 5x5; two 3x3; average pool.

    Args:
      pool_features: Width of the pool's projection.
    """

    pool_features: int = 64

    def branches(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
        """Map `[N, H, W, C]` to four maps of `[N, H, W, 64, 64, 96, pool_features]`."""
        return [
            self.chain(x, "branch1x1", (64, 1), train=train),
            self.chain(x, "branch5x5", (48, 1), (64, 5), train=train),
            self.chain(x, "branch3x3dbl", (64, 1), (96, 3), (96, 3), train=train),
            self.pooled(x, self.pool_features, train=train),
        ]


class InceptionB(FactorizedBlock):
    """Halve the map: 3x3/2; two 3x3, the last /2; max pool 3/2."""

    def branches(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
        """Map `[N, H, W, C]` to three maps of half the size, of 384, 96 and C channels."""
        return [
            self.chain(x, "branch3x3", (384, 3), train=train, halve=True),
            self.chain(x, "branch3x3dbl", (64, 1), (96, 3), (96, 3), train=train, halve=True),
            MaxPool(3, strides=2, name="pool")(x),
        ]


class InceptionC(FactorizedBlock):
    """1x1; 7x7 as 1x7 and 7x1; twice that; average pool.

    Args:
      width: Channels within the factorised branches.
    """

    width: int = 192

    def branches(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
        """Map `[N, H, W, C]` to four maps of the same size, of 192 channels each."""
        wide, tall = (self.width, (1, 7)), (self.width, (7, 1))
        return [
            self.chain(x, "branch1x1", (192, 1), train=train),
            self.chain(x, "branch7x7", (self.width, 1), wide, (192, (7, 1)), train=train),
            self.chain(x, "branch7x7dbl", (self.width, 1), tall, wide, tall, (192, (1, 7)), train=train),
            self.pooled(x, 192, train=train),
        ]


class InceptionD(FactorizedBlock):
    """Halve the map: 3x3/2; 1x7, 7x1 and 3x3/2; max pool 3/2."""

    def branches(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
        """Map `[N, H, W, C]` to three maps of half the size, of 320, 192 and C channels."""
        return [
            self.chain(x, "branch3x3", (192, 1), (320, 3), train=train, halve=True),
            self.chain(x, "branch7x7x3", (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3), train=train, halve=True),
            MaxPool(3, strides=2, name="pool")(x),
        ]


class InceptionE(FactorizedBlock):
    """1x1; 1x3 beside 3x1; 3x3, then 1x3 beside 3x1; average pool."""

    def branches(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
        """Map `[N, H, W, C]` to four maps of the same size, of 320, 768, 768 and 192 channels."""
        branch3x3 = self.chain(x, "branch3x3_1", (384, 1), train=train)
        branch3x3dbl = self.chain(x, "branch3x3dbl", (448, 1), (384, 3), train=train)
        return [
            self.chain(x, "branch1x1", (320, 1), train=train),
            self.fork(branch3x3, "branch3x3_2", 384, train=train),
            self.fork(branch3x3dbl, "branch3x3dbl_3", 384, train=train),
            self.pooled(x, 192, train=train),
        ]


# Pixels a side of the smallest map that the auxiliary head can read: pooled by 5x5/3, it has the 5x5 of a convolution.
AUXILIARY_MAP = 17


class AuxiliaryHeadV3(nn.Module):
    """Classify a map in the middle of InceptionV3 while training: average pool 5x5/3, 1x1, 5x5, average, logits.

    Args:
      num_classes: Width of the logits.
      conv: Makes a convolution, a `ConvNormAct` with its options filled in.
      last_kernel_init: Initialiser of the 5x5 convolution.
      kernel_init: Initialiser of the logits' kernel.
      bias_init: Initialiser of the logits' bias.
      dtype: What is computed in; parameters and logits are float32.
    Raises:
      ValueError: If the map is smaller than 17 x 17.
    References:
      Szegedy et al., 2015, https://arxiv.org/abs/1512.00567, section 4; the layers are torchvision's.
    """

    num_classes: int
    conv: Callable[..., nn.Module] = ConvNormAct
    last_kernel_init: Initializer = nn.initializers.lecun_normal()
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool = False) -> Float[Array, "n classes"]:
        """Map features `[N, H, W, C]` to logits, float32, `[N, num_classes]`."""
        if min(x.shape[1:3]) < AUXILIARY_MAP:
            raise ValueError(
                f"AuxiliaryHeadV3: expected a map of at least {AUXILIARY_MAP}x{AUXILIARY_MAP}, got "
                f"{x.shape[1]}x{x.shape[2]}. Use larger images, or no auxiliary head."
            )
        x = AvgPool(5, strides=3, name="pool")(x)
        x = self.conv(128, 1, name="conv0")(x, train=train)
        x = self.conv(768, 5, padding="VALID", kernel_init=self.last_kernel_init, name="conv1")(x, train=train)
        x = ops.global_avg_pool(x)
        logits = nn.Dense(
            self.num_classes, kernel_init=self.kernel_init, bias_init=self.bias_init, dtype=self.dtype, name="logits"
        )
        return logits(x).astype(jnp.float32)
