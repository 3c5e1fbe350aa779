"""Convolution, normalisation, activation: linen modules on cnnjax's convolution."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax import ops

# Flax's own layer with its own parameters, initialisers and arguments; only the arithmetic on a CPU is another.
Conv = functools.partial(nn.Conv, conv_general_dilated=ops.conv_general_dilated)

Size = int | tuple[int, int]
Padding = str | int | tuple[tuple[int, int], tuple[int, int]]


class ConvNormAct(nn.Module):
    """Convolve, normalise, activate: `act(norm(conv(x)))`.

    Its parameters are `conv/kernel`, `conv/bias` and those of `norm`.

    Args:
      features: Output channels.
      kernel_size: Taps, one integer or two.
      strides: Pixels between windows, one integer or two.
      padding: `"SAME"`, `"VALID"`, an integer or `((top, bottom), (left, right))`.
      norm: Makes the normalisation, called as `norm(use_running_average=..., dtype=..., name="norm")`, for example
        `cnnjax.layers.BatchNorm`; None for none.
      act: The activation; None for none.
      use_bias: Whether the convolution has a bias; None for exactly when nothing normalises after it.
      kernel_init: Initialiser of the kernel.
      bias_init: Initialiser of the bias.
      dtype: What is computed in; parameters stay float32.
    Example:
      >>> layer = ConvNormAct(8, 3, strides=2, padding=1)
      >>> layer.init_with_output(jax.random.key(0), jnp.ones((1, 9, 8, 3)))[0].shape
      (1, 5, 4, 8)
    """

    features: int
    kernel_size: Size = 3
    strides: Size = 1
    padding: Padding = "SAME"
    norm: Callable[..., nn.Module] | None = None
    act: Callable[[jax.Array], jax.Array] | None = nn.relu
    use_bias: bool | None = None
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map `[N, H, W, C]` to `[N, H', W', features]`; `train` takes the batch's own statistics."""
        x = Conv(
            self.features,
            _pair(self.kernel_size),
            strides=_pair(self.strides),
            padding=self.padding,
            use_bias=self.norm is None if self.use_bias is None else self.use_bias,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        if self.norm is not None:
            x = self.norm(use_running_average=not train, dtype=self.dtype, name="norm")(x)
        return x if self.act is None else self.act(x)


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
