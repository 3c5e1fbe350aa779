"""Local response normalisation, which the nets of 2012 to 2014 have and JAX lacks."""

from numbers import Integral

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float

from cnnjax.ops.arguments import images


def local_response_norm(
    x: Float[ArrayLike, "n h w c"], size: int = 5, *, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Float[Array, "n h w c"]:
    """Divide every value by a power of the mean square of its neighbours in the channel axis, in float32 at least.

    `y[..., c] = x[..., c] / (k + alpha / size * sum x[..., j]^2)^beta`, with j from `c - size // 2` to
    `c + (size - 1) // 2`; channels beyond the ends count as 0. PyTorch and Caffe divide `alpha` by `size` like this;
    the equation of the AlexNet paper and `tf.nn.local_response_normalization` don't, so their alpha is `alpha / size`.

    Args:
      x: Images.
      size: Neighbouring channels in the sum, the channel itself included.
      alpha: Weight of the mean square.
      beta: The power.
      k: Added to the weighted mean square, so that nothing divides by 0.
    Raises:
      TypeError: If x is not floating.
      ValueError: If x is not of rank 4 or `size` is below 1.
    References:
      Krizhevsky et al., 2012, "ImageNet classification with deep convolutional neural networks", section 3.3.
    Example:
      >>> local_response_norm(jnp.ones((1, 1, 1, 3)), 1, alpha=1.0, beta=1.0).tolist()
      [[[[0.5, 0.5, 0.5]]]]
    """
    x = images("local_response_norm", x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"local_response_norm: expected x of a floating dtype, got {x.dtype}. Cast it: x.astype('float32')."
        )
    if not isinstance(size, Integral) or size < 1:
        raise ValueError(
            f"local_response_norm: expected size of at least 1 channel, got {size!r}. Give an integer; Caffe's is 5."
        )
    # Not jnp.promote_types, which strict promotion forbids.
    wide = x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
    # A window reduction, not shifted slices: into each of those XLA fuses all that makes the sum's operand, so that the
    # gradient took its roots five times over.
    sides = ((0, 0), (0, 0), (0, 0), (size // 2, (size - 1) // 2))
    total = lax.reduce_window(wide * wide, np.zeros((), wide.dtype), lax.add, (1, 1, 1, size), (1, 1, 1, 1), sides)
    return (wide * _inverse_power(k + alpha / size * total, beta)).astype(x.dtype)


def _inverse_power(x, power):
    # Not of a traced power, nor of one that is differentiated.
    if isinstance(power, float) and power == 0.75:
        return _inverse_three_quarters(x)
    return x**-power


@jax.custom_jvp
def _inverse_three_quarters(x):
    # The usual power, from two roots: others are an exponential and a logarithm.
    root = lax.rsqrt(x)
    return root * lax.sqrt(root)


@_inverse_three_quarters.defjvp
def _(primals, tangents):
    (x,), (tangent,) = primals, tangents
    y = _inverse_three_quarters(x)
    return y, tangent * (-0.75 * y / x)
