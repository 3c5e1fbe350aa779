"""The block of DenseNet: every layer reads all that the ones before it made."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from cnnjax.layers.conv import ConvNormAct
from cnnjax.layers.norm import BatchNorm


class DenseBlock(nn.Module):
    """Append, layer by layer, `growth` channels made from all channels so far.

    A layer is normalisation, ReLU, 1x1 convolution to `bottleneck * growth` channels, then normalisation, ReLU, 3x3
    convolution to `growth`: `layer1/conv1`, `layer1/conv2`, `layer2/conv1`, ...

    Args:
      num_layers: Layers.
      growth: Channels that each adds.
      bottleneck: Width of the 1x1, in growths.
      conv: Makes normalisation, activation and convolution, a `ConvNormAct` of that order with its options filled in.
      dropout: Rate after each layer.
    References:
      Huang et al., 2016, https://arxiv.org/abs/1608.06993, section 3.
    """

    num_layers: int
    growth: int
    bottleneck: int = 4
    conv: Callable[..., nn.Module] = functools.partial(ConvNormAct, norm=BatchNorm, order="norm act conv")
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool = False) -> Float[Array, "n h w o"]:
        """Map `[N, H, W, C]` to `[N, H, W, C + num_layers * growth]`."""
        for number in range(1, self.num_layers + 1):
            layer = _DenseLayer(self.growth, self.bottleneck, self.conv, self.dropout, name=f"layer{number}")
            x = jnp.concatenate([x, layer(x, train=train)], axis=3)
        return x


class _DenseLayer(nn.Module):
    growth: int
    bottleneck: int
    conv: Callable[..., nn.Module]
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = self.conv(self.bottleneck * self.growth, 1, name="conv1")(x, train=train)
        x = self.conv(self.growth, 3, padding=1, name="conv2")(x, train=train)
        return nn.Dropout(self.dropout, deterministic=not train)(x)
