"""Which value is meant where nobody says which."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnnjax.receptive_field import measure, receptive_field

SHAPE = (1, 6, 7, 2)
WEIGHTS = np.random.default_rng(0).normal(size=(84, 3)).astype(np.float32)


class Perceptron(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(4)(x.reshape(x.shape[0], -1) / 255))
        return nn.Dense(3)(x)


FLAT = {
    "matrix": lambda x: x.reshape(1, -1) @ WEIGHTS,
    "scaled first": lambda x: (jnp.maximum(x, 0) / 255 - 1).reshape(1, -1) @ WEIGHTS,
    "mean": lambda x: x.mean((1, 2)),
    "two outputs": lambda x: {"a": jnp.ones(2), "b": x.max((1, 2))},
    "perceptron": Perceptron(),
}


@pytest.mark.parametrize("function", FLAT.values(), ids=FLAT)
def test_without_a_feature_map_the_output_is_meant_and_never_the_input(function):
    field = receptive_field(function, SHAPE)
    assert (field.name, field.size, field.is_global) == ("output", (6, 7), (True, True))
    assert field.interval(()) == ((0, 5), (0, 6))


def test_what_is_measured_without_a_feature_map():
    heat = measure(FLAT["scaled first"], SHAPE, samples=2, images=np.ones(SHAPE))
    assert (heat.shape, bool((heat > 0).all())) == ((6, 7), True)


def test_convolutions_of_one_tap_make_feature_maps():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.relu(nn.Conv(4, (1, 1))(x)).mean((1, 2))

    field = receptive_field(Network(), SHAPE)
    assert (field.output_shape, field.size, field.stride) == ((1, 6, 7, 4), (1, 1), (1, 1))
