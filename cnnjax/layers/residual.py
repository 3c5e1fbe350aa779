"""Residual blocks: basic and bottleneck, with every published kind of shortcut."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from cnnjax.layers.conv import ConvNormAct
from cnnjax.layers.norm import BatchNorm
from cnnjax.layers.pool import AvgPool

ConvBatchNorm = functools.partial(ConvNormAct, norm=BatchNorm)


class StochasticDepth(nn.Module):
    """Drop a residual branch for some examples while training, and scale the others by `1 / (1 - rate)`.

    Args:
      rate: Share of examples that lose the branch, in [0, 1).
    References:
      Huang et al., 2016, https://arxiv.org/abs/1603.09382.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool = False) -> Float[Array, "n h w c"]:
        """Map a branch `[N, H, W, C]` to itself, or to zero for the dropped examples."""
        if not 0 <= self.rate < 1:
            raise ValueError(f"StochasticDepth: expected rate in [0, 1), got {self.rate}. At 1 no branch is left.")
        if not train or not self.rate:
            return x
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, (x.shape[0], 1, 1, 1))
        return jnp.where(keep, x / (1 - self.rate), jnp.zeros((), x.dtype))


def padded_shortcut(x: jax.Array, features: int, strides: int) -> jax.Array:
    """Return the parameter-free shortcut: every `strides`-th pixel, new channels filled with zeros (option A).

    Args:
      x: `[N, H, W, C]`.
      features: Channels of the output, at least C; the new ones go half before, half after the old ones.
      strides: Pixels between those kept.
    Returns:
      `[N, ceil(H / strides), ceil(W / strides), features]`.
    Raises:
      ValueError: If `features` is below C.
    References:
      He et al., 2015, https://arxiv.org/abs/1512.03385, section 4.2.
    """
    new = features - x.shape[3]
    if new < 0:
        raise ValueError(f"padded_shortcut: expected at least {x.shape[3]} features, got {features}. Use a projection.")
    x = x[:, ::strides, ::strides]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))


class ResidualBlock(nn.Module):
    """Add a branch of convolutions to a shortcut: `relu(branch(x) + shortcut(x))`; see the two blocks below.

    Args:
      features: Width of the branch.
      strides: Pixels between outputs.
      conv: Makes a convolution with its normalisation, a `ConvNormAct` with its options filled in.
      projection: Whether a shortcut that changes shape is a 1x1 convolution, rather than `padded_shortcut`.
      zero_gamma: Whether the branch's last normalisation starts at scale 0, so that the block starts as its shortcut.
      drop_rate: Rate of `StochasticDepth` on the branch.
      gate: Makes what the branch ends in from the channels of its output, such as `se_gate`; None for nothing.
      average: Whether a shortcut that changes size averages 2x2 pixels before a 1x1 of stride 1 (ResNet-D).
    """

    features: int
    strides: int = 1
    conv: Callable[..., nn.Module] = ConvBatchNorm
    projection: bool = True
    zero_gamma: bool = False
    drop_rate: float = 0.0
    gate: Callable[..., nn.Module] | None = None
    average: bool = False

    @property
    def out_features(self) -> int:
        """Channels of the output."""
        return self.features

    def branch(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Map `[N, H, W, C]` to what is added to the shortcut."""
        raise TypeError("ResidualBlock: expected a block with a branch. Use BasicBlock or BottleneckBlock.")

    def last(self) -> Callable[..., nn.Module]:
        """Return what makes the branch's last convolution: no activation, the scale as `zero_gamma` says."""
        conv = functools.partial(self.conv, act=None)
        if not self.zero_gamma:
            return conv
        norm = functools.partial(conv.keywords.get("norm", BatchNorm), scale_init=nn.initializers.zeros)
        return functools.partial(conv, norm=norm)

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool = False) -> Float[Array, "n h2 w2 o"]:
        """Map `[N, H, W, C]` to `[N, H', W', out_features]`."""
        y = self.branch(x, train=train)
        y = y if self.gate is None else self.gate(self.out_features, name="gate")(y)
        y = StochasticDepth(self.drop_rate)(y, train=train)
        return nn.relu(y + self._shortcut(x, train))

    def _shortcut(self, x: jax.Array, train: bool) -> Any:
        if self.strides == 1 and x.shape[3] == self.out_features:
            return x
        if not self.projection:
            return padded_shortcut(x, self.out_features, self.strides)
        strides = self.strides
        if self.average and strides > 1:
            x, strides = AvgPool(2, strides=strides, ceil_mode=True, name="shortcut_pool")(x), 1
        conv = self.conv(self.out_features, 1, strides=strides, padding=0, act=None, name="shortcut")
        return conv(x, train=train)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions around a shortcut; the arguments are `ResidualBlock`'s.

    References:
      He et al., 2015, https://arxiv.org/abs/1512.03385, figure 5, left.
    """

    def branch(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Map `[N, H, W, C]` to `[N, H', W', features]`."""
        x = self.conv(self.features, 3, strides=self.strides, padding=1, name="conv1")(x, train=train)
        return self.last()(self.features, 3, padding=1, name="conv2")(x, train=train)


class BottleneckBlock(ResidualBlock):
    """1x1 down, 3x3, 1x1 up to four times the width, around a shortcut; the arguments are `ResidualBlock`'s.

    Args:
      stride_first: Whether the stride sits in the first 1x1 (v1: the paper, Keras) or in the 3x3 (v1.5: torchvision).
      groups: Groups of channels of the 3x3 that don't mix: ResNeXt's cardinality.
      group_width: Channels of a group where `features` is 64; they grow with it. With one group, the 3x3's width.
    References:
      He et al., 2015, https://arxiv.org/abs/1512.03385, figure 5, right.
      Xie et al., 2016, https://arxiv.org/abs/1611.05431 (groups).
    """

    stride_first: bool = False
    groups: int = 1
    group_width: int = 64

    @property
    def out_features(self) -> int:
        """Channels of the output."""
        return 4 * self.features

    def branch(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Map `[N, H, W, C]` to `[N, H', W', 4 * features]`."""
        first, second = (self.strides, 1) if self.stride_first else (1, self.strides)
        width = self.features * self.group_width // 64 * self.groups
        x = self.conv(width, 1, strides=first, padding=0, name="conv1")(x, train=train)
        middle = self.conv(width, 3, strides=second, padding=1, feature_group_count=self.groups, name="conv2")
        x = middle(x, train=train)
        return self.last()(self.out_features, 1, padding=0, name="conv3")(x, train=train)


class PreActivationBlock(nn.Module):
    """Normalise, activate, convolve, twice, and add x; where the shape changes, x normalised, activated, projected.

    Args:
      features: Width of both 3x3 convolutions.
      strides: Pixels between outputs.
      conv: Makes a convolution, a `Conv` with its options filled in.
      norm: Makes a normalisation that takes `name` alone.
      dropout: Rate between the convolutions.
    References:
      He et al., 2016, https://arxiv.org/abs/1603.05027, figure 4 (e).
    """

    features: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    strides: int = 1
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool = False) -> Float[Array, "n h2 w2 o"]:
        """Map `[N, H, W, C]` to `[N, H', W', features]`."""
        y = nn.relu(self.norm(name="norm1")(x))
        if self.strides > 1 or x.shape[3] != self.features:
            x = self.conv(self.features, 1, strides=self.strides, padding=0, name="shortcut")(y)
        y = self.conv(self.features, 3, strides=self.strides, padding=1, name="conv1")(y)
        y = nn.relu(self.norm(name="norm2")(y))
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        return x + self.conv(self.features, 3, padding=1, name="conv2")(y)
