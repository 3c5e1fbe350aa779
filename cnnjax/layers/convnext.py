"""The block of ConvNeXt, and the scale that its branch ends in."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from cnnjax.layers.conv import Conv
from cnnjax.layers.initializers import Initializer
from cnnjax.layers.norm import LayerNorm
from cnnjax.layers.residual import StochasticDepth


class LayerScale(nn.Module):
    """Multiply each channel by a parameter `scale` that starts small, so that a branch begins as almost nothing.

    Args:
      initial: What it starts at.
    References:
      Touvron et al., 2021, https://arxiv.org/abs/2103.17239, section 2.
    """

    initial: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*rest c"]) -> Float[Array, "*rest c"]:
        """Map `[..., C]` to the same shape."""
        scale = self.param("scale", nn.initializers.constant(self.initial), x.shape[-1:])
        return x * scale.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class ConvNeXtBlock(nn.Module):
    """Filter each channel alone by 7x7, normalise, widen four times with GELU, narrow, scale, and add x.

    Its parts are `depthwise`, `norm`, `dense1`, `dense2` and `layer_scale`.

    Args:
      layer_scale: What the scale starts at.
      drop_rate: Rate of `StochasticDepth` on the branch.
      kernel_init: Initialiser of the kernels.
      dtype: What is computed in; parameters stay float32.
    References:
      Liu et al., 2022, https://arxiv.org/abs/2201.03545, figure 4.
    """

    layer_scale: float = 1e-6
    drop_rate: float = 0.0
    kernel_init: Initializer = nn.initializers.truncated_normal(0.02)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool = False) -> Float[Array, "n h w c"]:
        """Map `[N, H, W, C]` to the same shape."""
        channels = x.shape[3]
        depthwise = Conv(
            channels,
            7,
            padding=3,
            feature_group_count=channels,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="depthwise",
        )
        y = LayerNorm(dtype=self.dtype, name="norm")(depthwise(x))
        y = nn.Dense(4 * channels, kernel_init=self.kernel_init, dtype=self.dtype, name="dense1")(y)
        y = nn.gelu(y, approximate=False)
        y = nn.Dense(channels, kernel_init=self.kernel_init, dtype=self.dtype, name="dense2")(y)
        y = LayerScale(self.layer_scale, name="layer_scale")(y)
        return x + StochasticDepth(self.drop_rate)(y, train=train)
