"""The block of the mobile nets: wide inside, narrow outside, each channel filtered alone."""

from collections.abc import Callable

from flax import linen as nn
from jax import Array
from jaxtyping import Float

from cnnjax.layers.conv import Padding
from cnnjax.layers.gate import SqueezeExcitation
from cnnjax.layers.residual import ConvBatchNorm, StochasticDepth


class InvertedResidual(nn.Module):
    """Widen by a 1x1, filter each channel alone, gate, narrow by a 1x1 without activation; add x where shapes agree.

    Its convolutions are `expand` (none where x has that width already), `depthwise` and `project`; the gate is `gate`.

    Args:
      features: Output channels.
      expanded: Channels inside.
      kernel_size: Taps a side of the depthwise convolution.
      strides: Pixels between outputs.
      padding: Of the depthwise convolution; None for half the kernel on every side, as PyTorch's nets have it.
      conv: Makes a convolution with its normalisation and activation, a `ConvNormAct` with its options filled in.
      gate: Makes what follows the depthwise convolution, such as `partial(SqueezeExcitation, 8)`; None for nothing.
      drop_rate: Rate of `StochasticDepth` on the branch.
    References:
      Sandler et al., 2018, https://arxiv.org/abs/1801.04381, figure 3.
      Howard et al., 2019, https://arxiv.org/abs/1905.02244, figure 4 (the gate).
    """

    features: int
    expanded: int
    kernel_size: int = 3
    strides: int = 1
    padding: Padding | None = None
    conv: Callable[..., nn.Module] = ConvBatchNorm
    gate: Callable[..., SqueezeExcitation] | None = None
    drop_rate: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool = False) -> Float[Array, "n h2 w2 o"]:
        """Map `[N, H, W, C]` to `[N, H', W', features]`."""
        y = x
        if x.shape[3] != self.expanded:
            y = self.conv(self.expanded, 1, name="expand")(y, train=train)
        depthwise = self.conv(
            self.expanded,
            self.kernel_size,
            strides=self.strides,
            padding=self.kernel_size // 2 if self.padding is None else self.padding,
            feature_group_count=self.expanded,
            name="depthwise",
        )
        y = depthwise(y, train=train)
        y = y if self.gate is None else self.gate(name="gate")(y)
        y = self.conv(self.features, 1, act=None, name="project")(y, train=train)
        if self.strides > 1 or x.shape[3] != self.features:
            return y
        return x + StochasticDepth(self.drop_rate)(y, train=train)
