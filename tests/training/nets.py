"""Tiny nets and batches, so that a test's compile takes a fraction of a second."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cnnjax.batch import Batch


class TinyNet(nn.Module):
    """Convolution, batch norm, dropout and a dense head: every kind of thing that a step carries on."""

    num_classes: int = 4
    dropout: float = 0.5

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Conv(3, (3, 3), use_bias=False)(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = nn.relu(x).mean(axis=(1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes)(x)


class LinearNet(nn.Module):
    """One dense layer, of which everything can be worked out by hand; knows no modes."""

    num_classes: int = 4

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_classes)(x.reshape(x.shape[0], -1))


def random_batch(seed=0, examples=8, shape=(6, 5, 2), num_classes=4, mask=None):
    """Return a batch of random images and labels."""
    rng = np.random.default_rng(seed)
    return Batch(
        image=jnp.asarray(rng.normal(size=(examples, *shape)), jnp.float32),
        label=jnp.asarray(rng.integers(0, num_classes, examples), jnp.int32),
        mask=jnp.asarray(np.ones(examples, bool) if mask is None else mask),
    )
