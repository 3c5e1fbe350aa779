"""Normalisation as linen modules, in float32 at least: over the batch, over channels, over neighbouring channels."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from cnnjax import ops
from cnnjax.ops.arguments import floating
from cnnjax.ops.channels import broadcast_channels, channel_moments, scale


class BatchNorm(nn.Module):
    """Normalise each channel over batch and space: `scale * (x - mean) / sqrt(var + epsilon) + bias`.

    Parameters (`scale`, `bias`) and running statistics (`batch_stats`: `mean`, `var`) are those of
    `flax.linen.BatchNorm`, whose variables it takes; unlike that one it works under strict dtype promotion. Statistics
    are taken in float32 whatever the dtype, over the global batch where it is sharded, and of differences from a centre
    of the data (`cnnjax.ops.channels.channel_moments`), so that a mean far from 0 costs no digits of the variance. The
    running variance is the biased one, as in Flax and Keras (PyTorch's is unbiased).

    Args:
      use_running_average: Whether to normalise with the running statistics instead of the batch's.
      momentum: Share of the running statistics that a training step keeps (PyTorch's momentum is one minus this).
      epsilon: Added to the variance.
      use_bias: Whether there is a `bias`.
      use_scale: Whether there is a `scale`.
      scale_init: Initialiser of the scale.
      dtype: What comes out; None for the dtype of x, or float32 for integers.
    """

    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    use_bias: bool = True
    use_scale: bool = True
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Map `[N, H, W, C]` to the same shape.

        Raises:
          ValueError: If the batch's statistics are asked for and each channel has a single value.
        """
        shape = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        dtype = floating("BatchNorm", self.dtype) or (x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.float32)
        x = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
        centre = None
        if self.use_running_average:
            mean, var = (stats.value.astype(x.dtype) for stats in (running_mean, running_var))
        else:
            if x.size == shape[0] and not self.is_initializing():
                raise ValueError(
                    f"BatchNorm: expected more than one value a channel to train on, got shape {x.shape}. Its "
                    "variance is 0. Train on larger batches or images, or use the running statistics (train=False)."
                )
            centre, mean, var = channel_moments(x)
            if x.size and not self.is_initializing():  # of no images nothing is learnt
                running_mean.value = self._moved(running_mean.value, centre + mean)
                running_var.value = self._moved(running_var.value, var)
        factor = jax.lax.rsqrt(var + self.epsilon)
        if self.use_scale:
            factor *= self.param("scale", self.scale_init, shape).astype(x.dtype)
        shift = -mean * factor
        if self.use_bias:
            shift += self.param("bias", nn.initializers.zeros, shape).astype(x.dtype)
        # One product and one sum a pixel; its gradient then takes a pass less than that of (x - mean) * factor.
        return (scale(x, factor, centre) + broadcast_channels(shift, x)).astype(dtype)

    def _moved(self, old: jax.Array, new: jax.Array) -> jax.Array:
        return self.momentum * old + (1 - self.momentum) * new.astype(old.dtype)


class LayerNorm(nn.Module):
    """Normalise every pixel over its channels: `scale * (x - mean) / sqrt(var + epsilon) + bias`.

    Parameters (`scale`, `bias`) are those of `flax.linen.LayerNorm`; unlike that one it works under strict dtype
    promotion, and takes the variance of differences from the mean. Statistics are taken in float32 at least.

    Args:
      epsilon: Added to the variance.
      dtype: What comes out; None for the dtype of x.
    """

    epsilon: float = 1e-6
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "*rest c"]) -> Float[Array, "*rest c"]:
        """Map `[..., C]` to the same shape."""
        dtype = floating("LayerNorm", self.dtype) or (x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.float32)
        x = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
        shape, ones = x.shape[-1:], (1,) * (x.ndim - 1)
        factor = self.param("scale", nn.initializers.ones, shape).astype(x.dtype).reshape(*ones, -1)
        shift = self.param("bias", nn.initializers.zeros, shape).astype(x.dtype).reshape(*ones, -1)
        x = x - x.mean(axis=-1, keepdims=True)
        deviation = jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + self.epsilon)
        return (x * deviation * factor + shift).astype(dtype)


class LocalResponseNorm(nn.Module):
    """Divide every value by a power of its neighbours' mean square; see `cnnjax.ops.local_response_norm`.

    Args:
      size: Neighbouring channels in the mean, the channel itself included.
      alpha: Weight of the mean square.
      beta: The power.
      k: Added to the weighted mean square.
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Map `[N, H, W, C]` to the same shape."""
        return ops.local_response_norm(x, self.size, alpha=self.alpha, beta=self.beta, k=self.k)
