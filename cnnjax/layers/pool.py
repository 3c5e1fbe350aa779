"""Pooling as linen modules, so that a pool has a name in a model's summary and in its features."""

from flax import linen as nn
from jax import Array
from jaxtyping import Float

from cnnjax import ops
from cnnjax.layers.conv import Padding, Size


class MaxPool(nn.Module):
    """Take the maximum of every window; see `cnnjax.ops.max_pool`.

    Args:
      window: Height and width of the window, or one integer for both.
      strides: Pixels between windows; None for the window itself.
      padding: `"VALID"`, `"SAME"`, an integer or `((top, bottom), (left, right))`; counts as minus infinity.
      ceil_mode: Whether a last window may hang over the end (PyTorch's rule).
      dilation: Pixels between the window's.
    """

    window: Size
    strides: Size | None = None
    padding: Padding = "VALID"
    ceil_mode: bool = False
    dilation: Size = 1

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
        """Map `[N, H, W, C]` to `[N, H', W', C]`."""
        return ops.max_pool(
            x,
            self.window,
            strides=self.strides,
            padding=self.padding,
            ceil_mode=self.ceil_mode,
            dilation=self.dilation,
        )


class AvgPool(nn.Module):
    """Take the mean of every window; see `cnnjax.ops.avg_pool`.

    Args:
      window: Height and width of the window, or one integer for both.
      strides: Pixels between windows; None for the window itself.
      padding: `"VALID"`, `"SAME"`, an integer or `((top, bottom), (left, right))`.
      ceil_mode: Whether a last window may hang over the end (PyTorch's rule).
      count_include_pad: Whether padding counts as pixels of value 0, or not at all.
      dilation: Pixels between the window's.
    """

    window: Size
    strides: Size | None = None
    padding: Padding = "VALID"
    ceil_mode: bool = False
    count_include_pad: bool = False
    dilation: Size = 1

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
        """Map `[N, H, W, C]` to `[N, H', W', C]`."""
        return ops.avg_pool(
            x,
            self.window,
            strides=self.strides,
            padding=self.padding,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
            dilation=self.dilation,
        )


class GlobalAvgPool(nn.Module):
    """Take the mean over height and width."""

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n c"]:
        """Map `[N, H, W, C]` to `[N, C]`."""
        return ops.global_avg_pool(x)
