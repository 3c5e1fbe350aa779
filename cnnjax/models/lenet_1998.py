"""LeNet-5 as the paper of 1998 has it: sparse C3, trainable subsampling, scaled tanh."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cnnjax import ops
from cnnjax.models.common import check_images, headless_output
from cnnjax.models.lenet import FIELD, SMALLEST, centring

__all__ = ["lenet5_1998"]

# Table I: the maps of S2 that each of the 16 maps of C3 reads.
C3_READS = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5)),
)


def squash(x: jax.Array) -> jax.Array:
    """Return the paper's activation, `1.7159 tanh(2/3 x)`, which maps +-1 to +-1 (appendix A)."""
    return 1.7159 * jnp.tanh(x * (2 / 3))


def _uniform(fan_in: int | np.ndarray) -> nn.initializers.Initializer:
    """Return the paper's initialiser: uniform in `+-2.4 / fan_in`, the inputs of one unit (appendix A)."""
    bound = np.asarray(2.4 / fan_in, np.float32)

    def init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -1.0, 1.0) * bound.reshape((1,) * (len(shape) - 1) + (-1,))

    return init


class Convolution(nn.Module):
    """Convolve 5x5 between the pairs of maps that a table connects, and squash.

    Args:
      reads: For each output map the input maps that it reads; its parameters are one kernel a pair and one bias a map.
      padding: Pixels before and after, per axis.
      dtype: What is computed in; parameters stay float32.
    """

    reads: tuple[tuple[int, ...], ...]
    padding: Any = "VALID"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[N, H, W, C]` to `[N, H', W', len(reads)]`."""
        source = np.concatenate([np.asarray(maps) for maps in self.reads])
        target = np.repeat(np.arange(len(self.reads)), [len(maps) for maps in self.reads])
        fan_in = 25 * np.array([len(maps) for maps in self.reads])
        pairs = self.param("kernel", _uniform(fan_in[target]), (5, 5, len(source)))
        bias = self.param("bias", _uniform(fan_in), (len(self.reads),))
        kernel = jnp.zeros((5, 5, x.shape[3], len(self.reads)), self.dtype)
        kernel = kernel.at[:, :, source, target].set(pairs.astype(self.dtype))
        return squash(ops.conv2d(x, kernel, bias.astype(self.dtype), padding=self.padding))


class Subsampling(nn.Module):
    """Halve each map: `squash(coefficient * (sum of 2x2 pixels) + bias)`, both numbers trainable, one pair a map.

    Args:
      dtype: What is computed in; parameters stay float32.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `[N, H, W, C]` to `[N, H // 2, W // 2, C]`."""
        coefficient = self.param("coefficient", _uniform(4), (x.shape[3],)).astype(self.dtype)
        bias = self.param("bias", _uniform(4), (x.shape[3],)).astype(self.dtype)
        sums = 4 * ops.avg_pool(x, 2)
        return squash(sums * coefficient.reshape(1, 1, 1, -1) + bias.reshape(1, 1, 1, -1))


class LeNet51998(nn.Module):
    """Classify images with LeNet-5 as published in 1998, but for its output layer.

    | layer | output | parameters |
    |---|---|---|
    | C1 5x5, 6 | 28 x 28 x 6 | 156 |
    | S2 trainable subsampling | 14 x 14 x 6 | 12 |
    | C3 5x5, 16, sparse (Table I) | 10 x 10 x 16 | 1,516 |
    | S4 trainable subsampling | 5 x 5 x 16 | 32 |
    | C5 120 | 120 | 48,120 |
    | F6 84 | 84 | 10,164 |
    | output 10 | 10 | 850 |

    That is the paper's 60,000 up to F6. The paper's output units measure distances to fixed bitmaps of the characters
    (radial basis functions, no trained parameter); a dense layer of logits stands in for them here, so that the net
    trains with the cross-entropy like every other: 60,850.

    Args:
      num_classes: Width of the output.
      include_top: Whether to end in the dense layers; without them S4's feature map comes out.
      pooling: Without the top: `avg` or `max` over space, or None for the map itself.
      dtype: What is computed in; parameters stay float32.
      input_shape: The paper's field; any image from 28 x 28 on does.
    References:
      LeCun et al., 1998, "Gradient-based learning applied to document recognition", section II.B and appendix A.
    """

    num_classes: int = 10
    include_top: bool = True
    pooling: str | None = None
    dtype: jnp.dtype = jnp.float32
    input_shape: tuple[int, int, int] = (FIELD, FIELD, 1)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map images `[N, H, W, C]` to logits, float32, `[N, num_classes]`; `train` changes nothing here."""
        del train
        check_images("lenet5_1998", x, smallest=SMALLEST, layer="s4")
        padding, every = centring(x), tuple(range(x.shape[3]))
        x = x.astype(self.dtype)
        x = Convolution((every,) * 6, padding=padding, dtype=self.dtype, name="c1")(x)
        x = Subsampling(dtype=self.dtype, name="s2")(x)
        self.sow("intermediates", "stage1", x)
        x = Convolution(C3_READS, dtype=self.dtype, name="c3")(x)
        x = Subsampling(dtype=self.dtype, name="s4")(x)
        self.sow("intermediates", "stage2", x)
        if not self.include_top:
            return headless_output(x, self.pooling)
        x = x.reshape(x.shape[0], -1)
        for name, width in (("c5", 120), ("f6", 84), ("output", self.num_classes)):
            init = _uniform(x.shape[1])
            x = nn.Dense(width, kernel_init=init, bias_init=init, dtype=self.dtype, name=name)(x)
            x = x if name == "output" else squash(x)
        return x.astype(jnp.float32)


lenet5_1998 = LeNet51998
