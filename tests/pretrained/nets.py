"""A small net, and random variables for any."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn


class Net(nn.Module):
    """A convolution with its normalisation, a dense layer that reads its map flattened, logits."""

    num_classes: int = 3
    include_top: bool = True
    input_shape = (4, 6, 2)

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Conv(5, (3, 3), name="conv")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        if not self.include_top:
            return x
        x = nn.relu(nn.Dense(7, name="hidden")(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.num_classes, name="logits")(x)


def randomised(model, seed=0):
    """Return random variables of a model, without running it."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *model.input_shape)))
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: random.standard_normal(leaf.shape).astype(np.float32), dict(shapes))
