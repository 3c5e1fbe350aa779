"""What numbers of a function do to its field: those that it fixes itself, and those that are parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
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

    for made in ("number", "list"):
        field = receptive_field(Drift(made), SHAPE)
        assert field.interval((5, 2)) == ((0, 11), (2, 2))
        assert not field.exact
    field = receptive_field(lambda x: rows_in_turn(turning, jnp.int32(0), x), SHAPE)
    assert [field.interval((row, 2))[0] for row in range(12)] == [(row % 6, row % 6) for row in range(12)]
    assert field.exact


MASK = np.random.default_rng(0).random(12) < 0.5
BAND = np.triu(np.tril(np.random.default_rng(1).uniform(0.5, 1.5, (12, 12)), 1), -2).astype(np.float32)


def wide(x):
    return lax.reduce_window(x, 0.0, lax.add, (1, 5, 5, 1), (1, 1, 1, 1), "SAME")


def shut(mask):
    return mask[None, :, None, None]


FIXED = {
    "chosen by a mask": lambda x: jnp.where(shut(MASK), jnp.roll(x, 1, 1), jnp.roll(x, -2, 1)),
    "masked": lambda x: jnp.where(shut(MASK), wide(x), 0.0),
    "branch": lambda x: lax.cond(True, lambda x: x * 2, wide, x),
    "branch by a number": lambda x: lax.switch(jnp.asarray(np.int32(7)), [wide, lambda x: x, jnp.exp], x),
    "matrix": lambda x: jnp.einsum("nhwc,hk->nkwc", x, BAND),
    "matrix on the left": lambda x: jnp.einsum("kh,nhwc->nkwc", jnp.asarray(BAND), x),
    "resized": lambda x: jax.image.scale_and_translate(
        x, (1, 18, 9, 2), (1,), jnp.array([1.5]), jnp.array([0.3]), "linear"
    ),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "resized")) for name in FIXED])
def test_numbers_that_a_function_fixes_are_used(name):
    """The derivative of what is linear, or monotone, says what is read."""
    function = FIXED[name]
    field = receptive_field(function, SHAPE)
    jacobian = np.asarray(jax.jacobian(lambda x: function(x).sum(-1)[0])(jnp.ones(SHAPE)))
    read = np.abs(jacobian).sum((2, -1)) > 0
    assert field.exact
    for index in np.ndindex(*field.units):
        for axis, said in enumerate(field.interval(index)):
            seen = np.flatnonzero(read[index].any(1 - axis))
            assert said == ((seen[0], seen[-1]) if seen.size else None)


class Weighted(nn.Module):
    """Use parameters where numbers could decide what is read."""

    use: str

    @nn.compact
    def __call__(self, x):
        if self.use == "branch":
            return lax.cond(self.param("gate", nn.initializers.zeros, ()) > 0, wide, lambda x: x, x)
        if self.use == "mask":
            return jnp.where(shut(self.param("mask", lambda key: jnp.asarray(MASK)[:])), wide(x), x)
        if self.use == "scan":
            layer = nn.scan(_banded, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
            return layer(self, x, None)[0]
        return _banded(self, x, None)[0]


def _banded(module, x, _):
    matrix = module.param("matrix", lambda key: jnp.asarray(BAND) * 1.0)
    return jnp.einsum("nhwc,hk->nkwc", x, matrix), None


@pytest.mark.parametrize("use", ["branch", "mask", "scan", "matrix"])
def test_numbers_of_parameters_are_not(use):
    rows = (3, 7) if use in ("branch", "mask") else (0, 11)
    for unit in (0, 2):
        assert receptive_field(Weighted(use), SHAPE, output=0).interval((5, unit))[0] == rows


def test_weights_of_an_nnx_module_are_not_numbers_either():
    class Net(nnx.Module):
        def __init__(self):
            self.matrix, self.gate = nnx.Param(jnp.asarray(BAND)), nnx.Param(jnp.array(0.0))

        def __call__(self, x):
            x = jnp.einsum("nhwc,hk->nkwc", x, self.matrix[...])
            return lax.cond(self.gate[...] > 0, wide, lambda x: x, x)

    field = receptive_field(Net(), SHAPE, output=0)
    assert field.interval((5, 4)) == ((0, 11), (2, 6))
    heat = measure(Net(), SHAPE, samples=1, output=0, unit=(5, 4))
    assert np.argwhere(heat).tolist() == [[row, 4] for row in np.flatnonzero(BAND[:, 5])]


def test_a_function_may_close_over_fresh_weights_of_zeros():
    assert receptive_field(lambda x: x.reshape(1, -1) @ jnp.zeros((216, 3)), SHAPE, output=0).is_global == (True, True)


def counting(x):
    """Go down an image by a pair of numbers, counted up step by step."""

    def step(place, _):
        return place + jnp.array([1, 0]), lax.dynamic_slice(x, (0, *place, 0), (1, 1, 3, 1))[:, 0]

    return jnp.moveaxis(lax.scan(step, jnp.array([0, 0]), None, length=x.shape[1])[1], 0, 1)


def test_what_could_not_be_followed_is_not_said_to_depend_on_data(monkeypatch):
    assert receptive_field(counting, (1, 20, 4, 1)).exact
    monkeypatch.setattr("cnnjax.receptive_field.value._LONGEST", 12)
    unfollowed = receptive_field(counting, (1, 20, 4, 1))
    by_data = receptive_field(lambda x: x[:, (x[0, :, 0, 0] > 0).astype(int)], SHAPE)
    assert not unfollowed.exact
    assert {"could not be followed" in note for note in unfollowed.notes} == {True}
    assert {"depend on data" in note for note in by_data.notes} == {True}


def test_a_scanned_stack_has_one_row():
    (row,) = trace(Weighted("scan"), SHAPE)
    assert (row.kind, row.field.size[0]) == ("scan of 2 steps", 12)
