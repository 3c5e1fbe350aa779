"""Does a stack of small convolutions see what one large convolution sees, and what does each cost?"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.jaxpr import count_macs
from cnnjax.receptive_field.theory import receptive_field


@dataclass(frozen=True)
class Cost:
    """Hold what one of the two sees and costs.

    Args:
      layers: Convolutions, one after another.
      kernel_size: Taps of each along an axis.
      size: Pixels along an axis that one unit reads.
      params: Weights, biases left out.
      macs: Multiply-accumulates of one image.
    """

    layers: int
    kernel_size: int
    size: int
    params: int
    macs: int


@dataclass(frozen=True)
class StackComparison:
    """Compare a stack of convolutions with a single one.

    Args:
      stack: The stack.
      single: The single one.
    """

    stack: Cost
    single: Cost

    @property
    def equal(self) -> bool:
        """Whether both see equally many pixels."""
        return self.stack.size == self.single.size

    def __str__(self) -> str:
        """Say it in three lines."""
        lines = []
        for cost in (self.stack, self.single):
            name = f"{cost.layers} x {cost.kernel_size}x{cost.kernel_size}"
            seen = f"sees {cost.size}x{cost.size}"
            lines.append(f"{name:<10} {seen:<14} {cost.params:>12,} weights {cost.macs:>16,} MACs")
        ratio = self.stack.params / self.single.params
        word = "the same field" if self.equal else "another field"
        return "\n".join(
            [*lines, f"{word}, {ratio:.0%} of the weights, {self.stack.macs / self.single.macs:.0%} of the MACs"]
        )


def compare_stacks(
    layers: int,
    kernel_size: int = 3,
    *,
    single: int | None = None,
    features: int = 64,
    image_size: int = 56,
) -> StackComparison:
    """Compare a stack of `layers` k x k convolutions with a single K x K one, all of stride 1 and SAME padding.

    Args:
      layers: Convolutions of the stack.
      kernel_size: Their taps along an axis, k.
      single: The single one's taps, K; None for as many as the stack sees: `layers * (k - 1) + 1`.
      features: Channels in and out of every convolution.
      image_size: Pixels of the square image.
    Returns:
      What each sees, read off its jaxpr, and costs; `print` shows it.
    Raises:
      ValueError: If a number is below 1.
    References:
      Simonyan and Zisserman, 2014, https://arxiv.org/abs/1409.1556, section 2.3.
    Example:
      >>> print(compare_stacks(2, 3))
      2 x 3x3    sees 5x5             73,728 weights      231,211,008 MACs
      1 x 5x5    sees 5x5            102,400 weights      321,126,400 MACs
      the same field, 72% of the weights, 72% of the MACs
    """
    single = layers * (kernel_size - 1) + 1 if single is None else single
    for name, value in {
        "layers": layers,
        "kernel_size": kernel_size,
        "single": single,
        "features": features,
        "image_size": image_size,
    }.items():
        if value < 1:
            raise ValueError(f"compare_stacks: expected {name} of at least 1, got {value}. Give a positive integer.")
    return StackComparison(_cost(layers, kernel_size, features, image_size), _cost(1, single, features, image_size))


def _cost(layers: int, kernel: int, features: int, size: int) -> Cost:
    model = nn.Sequential([nn.Conv(features, (kernel, kernel), use_bias=False) for _ in range(layers)])
    image = jax.ShapeDtypeStruct((1, size, size, features), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    params = sum(leaf.size for leaf in jax.tree.leaves(variables))
    seen = receptive_field(model, image.shape).size[0]
    return Cost(layers, kernel, seen, params, count_macs(model.apply, variables, image))
