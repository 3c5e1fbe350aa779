"""What numbers of a function do to its field: those that it fixes itself, and those that are parameters."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from cnnjax.receptive_field import measure, receptive_field, trace

SHAPE = (1, 12, 9, 2)


class ReZero(nn.Module):
    """Add a branch times one number that starts as zero (Bachlechner et al., 2020)."""

    @nn.compact
    def __call__(self, x):
        return x + self.param("alpha", nn.initializers.zeros, ()) * nn.Conv(2, (3, 3))(x)


def test_a_parameter_that_is_one_number():
    field = receptive_field(ReZero(), SHAPE)
    assert (field.size, field.stride, field.padding, field.exact) == ((3, 3), (1, 1), (1, 1), True)
    assert [layer.field.size for layer in trace(ReZero(), SHAPE)] == [(3, 3)]
    heat = measure(ReZero(), SHAPE, samples=1, unit=(5, 4))
    assert np.argwhere(heat).tolist() == [[5, 4]]  # fresh, the branch counts for nothing


def rows_in_turn(pick, start, x):
    """Carry something over the rows of the result and read of the image what it picks."""

    def step(carried, _):
        carried, place = pick(carried)
        return carried, lax.dynamic_index_in_dim(x, place, 1, keepdims=False)

    return jnp.moveaxis(lax.scan(step, start, None, length=x.shape[1])[1], 0, 1)


def dropped(key, x):
    return lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME") * jax.random.bernoulli(key, 0.5)


def test_loops_may_hand_on_random_keys():
    keys = jax.random.split(jax.random.key(0), 3)
    over = receptive_field(lambda x: lax.scan(lambda c, key: (dropped(key, c), None), x, keys)[0], SHAPE)

    def step(_, carried):
        key, now = jax.random.split(carried[0])
        return key, dropped(now, carried[1])

    carrying = receptive_field(lambda x: lax.fori_loop(0, 3, step, (jax.random.key(0), x))[1], SHAPE)
    for field in (over, carrying):
        assert (field.size, field.padding, field.exact) == ((7, 7), (3, 3), True)


def test_places_that_a_carried_key_draws_are_followed():
    def pick(key):
        key, now = jax.random.split(key)
        return key, jax.random.randint(now, (), 0, 12)

    def function(x):
        return rows_in_turn(pick, jax.random.key(3), x)

    field = receptive_field(function, SHAPE)
    numbers = jnp.broadcast_to(jnp.arange(12.0)[None, :, None, None], SHAPE)
    drawn = np.asarray(function(numbers))[0, :, 0, 0].astype(int)
    assert field.exact
    assert [field.interval((row, 4))[0] for row in range(12)] == [(place, place) for place in drawn]


class Drift(nn.Module):
    """Go down the image by a learned step."""

    made: str

    @nn.compact
    def __call__(self, x):
        makers = {"number": lambda key: jnp.int32(1), "list": lambda key: jnp.ones((1,), jnp.int32)}
        step = self.param("step", makers[self.made]).reshape(())
        return rows_in_turn(lambda place: (place + step, place), jnp.int32(0), x)


def test_a_place_that_stops_being_known_does_not_stay_where_it_was():
    """A learned step goes anywhere; of what is known no more after the first row, the first row is not the answer."""

    def turning(place):
        return lax.cond(place < 5, lambda k: k + 1, lambda k: k * 0, place), place

    field = receptive_field(Drift("list"), SHAPE)
    assert field.interval((5, 2)) == ((0, 11), (2, 2))
    assert not field.exact
    field = receptive_field(lambda x: rows_in_turn(turning, jnp.int32(0), x), SHAPE)
    for row in range(12):
        first, last = field.interval((row, 2))[0]
        assert first <= row % 6 <= last
