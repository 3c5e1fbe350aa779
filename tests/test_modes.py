"""Modes are handed only to modules that know them, whatever stands around those."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnnjax import features, models, summary
from cnnjax.modes import knows_modes, mode
from cnnjax.receptive_field import receptive_field
from cnnjax.training import create_state


class Knows(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dropout(0.5, deterministic=not train)(nn.Conv(2, (3, 3))(x))


class Takes(nn.Module):
    @nn.compact
    def __call__(self, x, **options):
        return Knows()(x, **options)


class Own(nn.Sequential):
    def __call__(self, x, **options):
        return super().__call__(x, **options)


CONV = functools.partial(nn.Conv, 2, (3, 3))
CASES = {
    "knows": (Knows, True),
    "takes any": (Takes, True),
    "convolution": (CONV, False),
    "rematerialised": (lambda: nn.remat(nn.Conv)(2, (3, 3)), False),
    "ours": (lambda: models.build("simple_cnn"), True),
    "sequence": (lambda: nn.Sequential([CONV(), nn.relu]), False),
    "sequence of one that knows": (lambda: nn.Sequential([Knows(), nn.relu]), True),
    "sequence of one that knows, later": (lambda: nn.Sequential([CONV(), Knows()]), False),
    "sequence in a sequence": (lambda: nn.Sequential([nn.Sequential([CONV(), nn.relu]), CONV()]), False),
    "sequence in a sequence that knows": (lambda: nn.Sequential([nn.Sequential([Knows()]), CONV()]), True),
    "functions": (lambda: nn.Sequential([nn.relu, CONV()]), False),
    "a compiled function": (lambda: nn.Sequential([jax.jit(jnp.tanh), CONV()]), False),
    "a partial": (lambda: nn.Sequential([functools.partial(nn.max_pool, window_shape=(2, 2)), CONV()]), False),
    "a function written in C": (lambda: nn.Sequential([max]), False),
    "empty": (lambda: nn.Sequential([]), False),
    "a sequence of one's own": (lambda: Own([Knows()]), True),
}


@pytest.mark.parametrize(("make", "expected"), CASES.values(), ids=CASES)
def test_whether_a_module_knows_modes(make, expected):
    model = make()
    assert knows_modes(model) is expected
    assert mode(model, train=True) == ({"train": True} if expected else {})
    if make not in (CASES["empty"][0], CASES["a function written in C"][0]):
        x = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
        jax.eval_shape(functools.partial(model.init, **mode(model, train=False)), jax.random.key(0), x)


def test_a_sequence_goes_through_the_house():
    """Everything that calls modules takes a plain `nn.Sequential`, whose layers know no modes."""
    import optax

    model = nn.Sequential([nn.Conv(2, (3, 3)), nn.relu, nn.Conv(3, (3, 3))])
    assert receptive_field(model, (8, 9, 1)).size == (5, 5)
    assert [row.receptive_field for row in summary(model, (8, 9, 1)).rows] == [(3, 3), (5, 5)]
    state = create_state(model, optax.sgd(0.1), (8, 9, 1), key=jax.random.key(0))
    x = np.ones((1, 8, 9, 1), np.float32)
    assert state.apply_fn(state.variables, x, train=True).shape == (1, 8, 9, 3)
    assert features(model, state.variables, x, ["layers_0"])["layers_0"].shape == (1, 8, 9, 2)
