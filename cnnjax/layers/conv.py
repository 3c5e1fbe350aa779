"""Convolution, normalisation, activation: linen modules on cnnjax's convolution."""

import inspect
from collections.abc import Callable
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import Array
from jaxtyping import Float

from cnnjax import ops
from cnnjax.ops import arguments
from cnnjax.ops.conv import check_groups

Size = int | tuple[int, int]
Padding = str | int | tuple[tuple[int, int], tuple[int, int]]


class Conv(nn.Module):
    """Convolve; parameters and initial values are those of `flax.linen.Conv`: `kernel` `[KH, KW, C, O]`, `bias` `[O]`.

    Args:
      features: Output channels.
      kernel_size: Taps, one integer or two.
      strides: Pixels between windows, one integer or two.
      padding: `"SAME"`, `"VALID"`, an integer or `((top, bottom), (left, right))`.
      kernel_dilation: Pixels between the kernel's taps, one integer or two.
      feature_group_count: Groups of channels that don't mix.
      use_bias: Whether there is a `bias`.
      kernel_init: Initialiser of the kernel.
      bias_init: Initialiser of the bias.
      dtype: What is computed in; None for what x and the parameters promote to.
      param_dtype: What the parameters are kept in.
    Example:
      >>> Conv(8, 3).init_with_output(jax.random.key(0), jnp.ones((1, 9, 7, 4)))[0].shape
      (1, 9, 7, 8)
    """

    features: int
    kernel_size: Size
    strides: Size = 1
    padding: Padding = "SAME"
    kernel_dilation: Size = 1
    feature_group_count: int = 1
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 o"]:
        """Map `[N, H, W, C]` to `[N, H', W', features]`."""
        x = arguments.images("Conv", x)
        taps = arguments.pair("Conv", "kernel_size", self.kernel_size)
        if not isinstance(self.features, Integral) or self.features < 1:
            raise ValueError(f"Conv: expected features of at least 1, got {self.features!r}. Give an integer.")
        check_groups("Conv", x.shape[3], self.features, self.feature_group_count)
        shape = (*taps, x.shape[3] // self.feature_group_count, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, shape[3:], self.param_dtype) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=arguments.floating("Conv", self.dtype))
        return ops.conv2d(
            x,
            kernel,
            bias,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            feature_group_count=self.feature_group_count,
        )


_ORDERS = ("conv norm act", "conv act norm", "norm act conv")


class ConvNormAct(nn.Module):
    """Convolve, normalise, activate: `act(norm(conv(x)))`, or in another order.

    Its parameters are `conv/kernel`, `conv/bias` and those of `norm`.

    Args:
      features: Output channels.
      kernel_size: Taps, one integer or two.
      strides: Pixels between windows, one integer or two.
      padding: `"SAME"`, `"VALID"`, an integer or `((top, bottom), (left, right))`.
      norm: Makes the normalisation: `norm(use_running_average=not train, dtype=..., name="norm")`, without what it does
        not take or a `partial` has filled in. For example `cnnjax.layers.BatchNorm`, `nn.GroupNorm`, or
        `partial(BatchNorm, use_running_average=True)` for statistics that never change; None for none.
      act: The activation, a function of an array; None for none.
      use_bias: Whether the convolution has a bias; None for exactly when its output is not what is normalised, which
        would take the bias away again.
      kernel_init: Initialiser of the kernel.
      bias_init: Initialiser of the bias.
      dtype: What is computed in; parameters stay float32.
      kernel_dilation: Pixels between the kernel's taps, one integer or two.
      feature_group_count: Groups of channels that don't mix.
      order: `"conv norm act"`, `"conv act norm"`, or `"norm act conv"` (pre-activation).
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
    kernel_dilation: Size = 1
    feature_group_count: int = 1
    order: str = _ORDERS[0]

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool = False) -> Float[Array, "n h2 w2 o"]:
        """Map `[N, H, W, C]` to `[N, H', W', features]`; `train` takes the batch's own statistics."""
        self._check()
        for step in self.order.split():
            if step == "conv":
                x = self._conv()(x)
            elif step == "norm" and self.norm is not None:
                options = _accepted(self.norm, use_running_average=not train, dtype=self.dtype)
                x = self.norm(**options, name="norm")(x)
            elif step == "act" and self.act is not None:
                x = self.act(x)
        return x

    def _conv(self) -> Conv:
        normalised = self.norm is not None and self.order.startswith("conv norm")
        return Conv(
            self.features,
            self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            feature_group_count=self.feature_group_count,
            use_bias=not normalised if self.use_bias is None else self.use_bias,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            dtype=self.dtype,
            name="conv",
        )

    def _check(self) -> None:
        if self.order not in _ORDERS:
            raise ValueError(f"ConvNormAct: expected order as one of {_ORDERS}, got {self.order!r}. Write one of them.")
        if self.act is not None and not callable(self.act):
            raise TypeError(f"ConvNormAct: expected a function or None as act, got {self.act!r}. Give nn.relu.")
        if self.norm is not None and (isinstance(self.norm, nn.Module) or not callable(self.norm)):
            got = type(self.norm).__name__ + "(...)" if isinstance(self.norm, nn.Module) else repr(self.norm)
            raise TypeError(f"ConvNormAct: expected as norm what makes a module, got {got}. Give a class or a partial.")


def _accepted(make: Callable[..., nn.Module], **options: Any) -> dict[str, Any]:
    """Return the options that a maker of modules takes and that no `partial` has filled in."""
    parameters, filled = inspect.signature(make).parameters, getattr(make, "keywords", {})
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {name: value for name, value in options.items() if (name in parameters or takes_all) and name not in filled}
