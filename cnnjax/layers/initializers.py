"""The initialisers that the published nets name and linen has no short word for."""

import jax
import jax.numpy as jnp
from flax.linen import initializers

Initializer = initializers.Initializer

# He et al., 2015, https://arxiv.org/abs/1502.01852, with the forward pass's fan, and with the backward pass's as
# torchvision's residual nets and VGGs have it; untruncated, as published.
he_normal = initializers.variance_scaling(2.0, "fan_in", "normal")
he_normal_fan_out = initializers.variance_scaling(2.0, "fan_out", "normal")
# Glorot and Bengio, 2010: Keras's default.
glorot_uniform = initializers.glorot_uniform()
# What a PyTorch layer does when nobody says otherwise: uniform in +-1/sqrt(fan_in).
torch_uniform = initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_uniform_bias(fan_in: int) -> Initializer:
    """Return PyTorch's default initialiser of a bias: uniform in `+-1/sqrt(fan_in)`.

    Args:
      fan_in: Inputs of one unit: taps times channels.
    """
    bound = fan_in**-0.5

    def init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
