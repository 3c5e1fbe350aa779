"""Squeeze-and-excitation: a gate for every channel, set by the mean of the whole map."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from cnnjax import ops
from cnnjax.layers.conv import Conv
from cnnjax.layers.initializers import Initializer, he_normal_fan_out


def round_channels(channels: float, divisor: int = 8, *, most_lost: float = 0.1) -> int:
    """Return the multiple of `divisor` nearest to a scaled number of channels, as the mobile nets round their widths.

    Args:
      channels: At least this number is wanted, but for the share that may get lost.
      divisor: What the result is a multiple of, and its least value.
      most_lost: Share that rounding down may take; where it takes more, the next multiple is returned.
    Example:
      >>> round_channels(32 * 0.35), round_channels(24 * 1.3)
      (16, 32)
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < (1 - most_lost) * channels else rounded


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate: `x * gate(expand(act(reduce(mean(x)))))`.

    The mean is over the whole map, so that behind it everything reads the whole image: its theoretical receptive field
    is global. The nets that have such gates are built without them by `gate=None`, to see what their windows read.

    Args:
      squeezed: Width between the two 1x1 convolutions `reduce` and `expand`.
      act: Between them.
      gate: From the second one's output to a factor.
      kernel_init: Initialiser of the kernels.
      bias_init: Initialiser of the biases.
      dtype: What is computed in; parameters stay float32.
    References:
      Hu et al., 2017, https://arxiv.org/abs/1709.01507, figure 1.
    Example:
      >>> layer = SqueezeExcitation(4)
      >>> layer.init_with_output(jax.random.key(0), jnp.ones((2, 9, 7, 16)))[0].shape
      (2, 9, 7, 16)
    """

    squeezed: int
    act: Callable[[jax.Array], jax.Array] = nn.relu
    gate: Callable[[jax.Array], jax.Array] = nn.sigmoid
    kernel_init: Initializer = he_normal_fan_out
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Map `[N, H, W, C]` to the same shape."""

        def conv(features: int, name: str) -> Conv:
            return Conv(
                features, 1, kernel_init=self.kernel_init, bias_init=self.bias_init, dtype=self.dtype, name=name
            )

        y = ops.global_avg_pool(x)[:, None, None]
        y = self.act(conv(self.squeezed, "reduce")(y))
        return x * self.gate(conv(x.shape[3], "expand")(y)).astype(x.dtype)
