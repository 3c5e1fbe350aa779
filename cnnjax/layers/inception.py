"""Inception blocks of 2014: the naive one, the one with dimension reductions, and the auxiliary classifier."""

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from cnnjax import ops
from cnnjax.layers.conv import ConvNormAct
from cnnjax.layers.initializers import Initializer
from cnnjax.layers.pool import AvgPool, MaxPool


def _check_widths(op: str, widths: Any, count: int) -> None:
    if not isinstance(widths, Sequence) or len(widths) != count or not all(isinstance(n, Integral) for n in widths):
        raise ValueError(f"{op}: expected {count} widths, got {widths!r}. Give a tuple of {count} integers.")


class NaiveInceptionBlock(nn.Module):
    """Concatenate 1x1, 3x3 and 5x5 convolutions and a 3x3 max pool of the same map.

    Its output is always wider than its input, by the sum of `widths`, and the 5x5 convolution reads all of it: that is
    why the nets have the block with reductions.

    Args:
      widths: Channels of the 1x1, the 3x3 and the 5x5 convolution.
      conv: Makes a convolution, a `ConvNormAct` with its options filled in.
    Example:
      >>> import jax
      >>> block = NaiveInceptionBlock((64, 128, 32))
      >>> jax.eval_shape(block.init_with_output, jax.random.key(0), jnp.ones((1, 28, 28, 192)))[0].shape
      (1, 28, 28, 416)

    References:
      Szegedy et al., 2014, https://arxiv.org/abs/1409.4842, figure 2(a).
    """

    widths: tuple[int, int, int]
    conv: Callable[..., nn.Module] = ConvNormAct

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool = False) -> Float[Array, "n h w o"]:
        """Map `[N, H, W, C]` to `[N, H, W, C + sum(widths)]`."""
        _check_widths("NaiveInceptionBlock", self.widths, 3)
        branches = [
            self.conv(features, kernel, name=f"branch{kernel}")(x, train=train)
            for features, kernel in zip(self.widths, (1, 3, 5), strict=True)
        ]
        pooled = MaxPool(3, strides=1, padding=1, name="branch_pool")(x)
        return jnp.concatenate([*branches, pooled], axis=-1)


class InceptionBlock(nn.Module):
    """Concatenate four branches of the same map, each made narrow by a 1x1 convolution.

    | branch | layers |
    |---|---|
    | branch1 | 1x1 |
    | branch3 | 1x1 reduce, 3x3 |
    | branch5 | 1x1 reduce, 5x5 |
    | branch_pool | 3x3 max pool, 1x1 |

    Args:
      widths: Channels in the order of the paper's Table 1: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
      branch5_kernels: The convolutions after the reduction of branch5, by their sizes: the paper's `(5,)`, the
        `(3,)` of torchvision, or `(3, 3)`, which reads 5x5 pixels.
      conv: Makes a convolution, a `ConvNormAct` with its options filled in.
    Example:
      >>> import jax
      >>> block = InceptionBlock((64, 96, 128, 16, 32, 32))
      >>> jax.eval_shape(block.init_with_output, jax.random.key(0), jnp.ones((1, 28, 28, 192)))[0].shape
      (1, 28, 28, 256)

    References:
      Szegedy et al., 2014, https://arxiv.org/abs/1409.4842, figure 2(b).
    """

    widths: tuple[int, int, int, int, int, int]
    branch5_kernels: Sequence[int] = (5,)
    conv: Callable[..., nn.Module] = ConvNormAct

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool = False) -> Float[Array, "n h w o"]:
        """Map `[N, H, W, C]` to `[N, H, W, 1x1 + 3x3 + 5x5 + pool projection]`."""
        _check_widths("InceptionBlock", self.widths, 6)
        one, reduce3, three, reduce5, five, project = self.widths
        branch1 = self.conv(one, 1, name="branch1")(x, train=train)
        branch3 = self.conv(reduce3, 1, name="branch3_reduce")(x, train=train)
        branch3 = self.conv(three, 3, name="branch3")(branch3, train=train)
        branch5 = self.conv(reduce5, 1, name="branch5_reduce")(x, train=train)
        for number, kernel in enumerate(self.branch5_kernels, 1):
            name = "branch5" if number == 1 else f"branch5_{number}"
            branch5 = self.conv(five, kernel, name=name)(branch5, train=train)
        pooled = MaxPool(3, strides=1, padding=1, name="pool")(x)
        branch_pool = self.conv(project, 1, name="branch_pool")(pooled, train=train)
        return jnp.concatenate([branch1, branch3, branch5, branch_pool], axis=-1)


class AuxiliaryHead(nn.Module):
    """Classify a map in the middle of a net, so that the early layers get a gradient while training.

    Pool to 4 x 4, 1x1 convolution of 128, dense 1024, dropout, logits. The paper's pool is an average of 5x5/3, which
    makes 4 x 4 of its 14 x 14; a map of another size is then averaged to 4 x 4.

    Args:
      num_classes: Width of the logits.
      overlapping: Whether the paper's 5x5/3 pool comes before the adaptive one; torchvision has the adaptive one alone.
      dropout: Rate before the logits.
      conv: Makes a convolution, a `ConvNormAct` with its options filled in.
      kernel_init: Initialiser of the dense kernels.
      dense_bias_init: Initialiser of the hidden layer's bias.
      logits_bias_init: Initialiser of the logits' bias.
      dtype: What is computed in; parameters and logits are float32.
    References:
      Szegedy et al., 2014, https://arxiv.org/abs/1409.4842, section 5.
    """

    num_classes: int
    overlapping: bool = True
    dropout: float = 0.7
    conv: Callable[..., nn.Module] = ConvNormAct
    kernel_init: Initializer = nn.initializers.lecun_normal()
    dense_bias_init: Initializer = nn.initializers.zeros
    logits_bias_init: Initializer = nn.initializers.zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], *, train: bool = False) -> Float[Array, "n classes"]:
        """Map features `[N, H, W, C]` to logits, float32, `[N, num_classes]`."""
        if self.overlapping:
            # On a map smaller than the window the window is the whole map.
            x = AvgPool((min(5, x.shape[1]), min(5, x.shape[2])), strides=3, name="pool")(x)
        x = ops.adaptive_avg_pool(x, 4)
        x = self.conv(128, 1, name="conv")(x, train=train)
        x = x.reshape(x.shape[0], -1)
        options = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        x = nn.relu(nn.Dense(1024, bias_init=self.dense_bias_init, name="dense1", **options)(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.Dense(self.num_classes, bias_init=self.logits_bias_init, name="logits", **options)(x)
        return x.astype(jnp.float32)
