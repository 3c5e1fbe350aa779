"""Normalisation that linen lacks, as modules, so that it has a name in a model's summary and in its features."""

import jax
from flax import linen as nn

from cnnjax import ops


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
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[N, H, W, C]` to the same shape."""
        return ops.local_response_norm(x, self.size, alpha=self.alpha, beta=self.beta, k=self.k)
