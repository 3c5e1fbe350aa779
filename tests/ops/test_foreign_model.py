"""Somebody else's linen model, given the fast convolution in one line."""

import collections
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import ops
from tests.ops import oracles


class Foreign(nn.Module):
    conv: Any = None  # linen's own choice: jax.lax's

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3), conv_general_dilated=self.conv)(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Conv(16, (1, 1), conv_general_dilated=self.conv)(x))
        return nn.Dense(5)(x.reshape(x.shape[0], -1))


THEIRS, OURS = Foreign(), Foreign(ops.conv_general_dilated)


def step(model):
    def loss(params, x, labels):
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), labels).mean()

    def take(params, x, labels):
        value, gradients = jax.value_and_grad(loss)(params, x, labels)
        return value, jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)

    return jax.jit(take)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 12, 10, 3)).astype(np.float32)
    shapes = jax.eval_shape(THEIRS.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: 0.1 * rng.normal(size=leaf.shape).astype(np.float32), shapes)
    return variables, x, rng.integers(0, 5, 8)


def operations(model, batch, platform):
    """Count the operations of a training step as it is lowered for a platform."""
    text = step(model).trace(*batch).lower(lowering_platforms=(platform,)).as_text()
    return collections.Counter(re.findall(r"stablehlo\.\w+", text))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_get_the_platforms_convolutions_forward_and_backward(platform, batch):
    """The whole step is, operation by operation, what plain linen's is."""
    found = operations(OURS, batch, platform)
    # Two forward, two kernel gradients, one gradient of images, since nobody asks for the first layer's.
    assert found["stablehlo.convolution"] == 5
    assert found == operations(THEIRS, batch, platform)


def test_a_cpu_gets_its_own_algorithms_with_the_same_parameters_and_results(batch):
    variables, x, _ = batch
    same = jax.eval_shape(OURS.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, same) == jax.tree.map(jnp.shape, variables)
    assert operations(OURS, batch, "cpu")["stablehlo.convolution"] < 5
    assert operations(THEIRS, batch, "cpu")["stablehlo.convolution"] == 5
    for ours, theirs in zip(*(jax.tree.leaves(step(model)(*batch)) for model in (OURS, THEIRS)), strict=True):
        oracles.close(ours, theirs)
