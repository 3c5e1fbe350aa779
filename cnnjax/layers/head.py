"""The dense end of a classifier."""

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from cnnjax.layers.initializers import Initializer
from cnnjax.ops.arguments import floating


class DenseHead(nn.Module):
    """Map features to logits through dense layers with an activation between them.

    The layers are called `dense1`, `dense2`, ... and `logits`.

    Args:
      num_classes: Width of the logits.
      hidden: Width of each layer before the last.
      dropout: Rate before each dense layer, the last included; shorter sequences are filled up with 0.
      act: The activation behind each layer but the last.
      kernel_init: Initialiser of the kernels.
      bias_init: Initialiser of the biases.
      dtype: What is computed in; parameters and logits are float32.
    Example:
      >>> import jax
      >>> head = DenseHead(10, hidden=(32,), dropout=(0.0, 0.5))
      >>> head.init_with_output(jax.random.key(0), jnp.ones((2, 16)))[0].shape
      (2, 10)
    """

    num_classes: int
    hidden: Sequence[int] = ()
    dropout: Sequence[float] = ()
    act: Callable[[Array], Array] = nn.relu
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n ..."], *, train: bool = False) -> Float[Array, "n classes"]:
        """Map features `[N, ...]`, flattened, to logits, float32, `[N, num_classes]`."""
        floating("DenseHead", self.dtype)
        for name, value in (("hidden", self.hidden), ("dropout", self.dropout)):
            if not isinstance(value, Sequence) or isinstance(value, str):
                raise TypeError(
                    f"DenseHead: expected {name} as a tuple, one a layer, got {value!r}. Give ({value!r},)."
                )
        x = x.reshape(x.shape[0], -1)
        widths = (*self.hidden, self.num_classes)
        if not all(isinstance(width, Integral) and width >= 1 for width in widths):
            raise ValueError(f"DenseHead: expected widths of at least 1, got {widths}. Give positive integers.")
        if len(self.dropout) > len(widths) or not all(0 <= rate <= 1 for rate in self.dropout):
            raise ValueError(
                f"DenseHead: expected at most {len(widths)} rates in [0, 1], one a layer, got {self.dropout}. "
                "Leave the last ones out for 0."
            )
        rates = (*self.dropout, *[0.0] * (len(widths) - len(self.dropout)))
        for number, (width, rate) in enumerate(zip(widths, rates, strict=True), 1):
            last = number == len(widths)
            x = nn.Dropout(rate, deterministic=not train)(x)
            x = nn.Dense(
                width,
                kernel_init=self.kernel_init,
                bias_init=self.bias_init,
                dtype=self.dtype,
                name="logits" if last else f"dense{number}",
            )(x)
            x = x if last else self.act(x)
        return x.astype(jnp.float32)
