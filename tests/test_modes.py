"""Modes are handed only to modules that know them, whatever stands around those."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from cnnjax import features, models, summary
from cnnjax.errors import UsageError
from cnnjax.modes import accepts_train, train_kwargs, watch_modes
from cnnjax.receptive_field import receptive_field
from cnnjax.training import create_state, train_step


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
    assert accepts_train(model) is expected
    assert train_kwargs(model, train=True) == ({"train": True} if expected else {})
    if make not in (CASES["empty"][0], CASES["a function written in C"][0]):
        x = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
        jax.eval_shape(functools.partial(model.init, **train_kwargs(model, train=False)), jax.random.key(0), x)


def test_a_sequence_goes_through_the_house():
    """Everything that calls modules takes a plain `nn.Sequential`, whose layers know no modes."""
    model = nn.Sequential([nn.Conv(2, (3, 3)), nn.relu, nn.Conv(3, (3, 3))])
    assert receptive_field(model, (8, 9, 1)).size == (5, 5)
    assert [row.receptive_field for row in summary(model, (8, 9, 1)).rows] == [(3, 3), (5, 5)]
    state = create_state(model, optax.sgd(0.1), (8, 9, 1), key=jax.random.key(0))
    x = np.ones((1, 8, 9, 1), np.float32)
    assert state.apply_fn(state.variables, x, train=True).shape == (1, 8, 9, 3)
    assert features(model, state.variables, x, ["layers_0"])["layers_0"].shape == (1, 8, 9, 2)


def named(name):
    """Return a net of batch norm and dropout whose mode has that name, which the course's and others' nets give it."""
    in_training = name not in ("deterministic", "use_running_average")

    class Net(nn.Module):
        def layers(self, x, train):
            x = nn.BatchNorm(momentum=0.9)(x, use_running_average=not train)
            return nn.Dense(4)(nn.Dropout(0.5)(x.mean((1, 2)), deterministic=not train))

    code = f"@nn.compact\ndef __call__(self, x, {name}={not in_training}):\n"
    code += f"    return self.layers(x, {name if in_training else f'not {name}'})\n"
    space = {"nn": nn}
    exec(code, space)
    return type("Net", (Net,), {"__call__": space["__call__"], "__module__": __name__})()


NAMES = ["train", "training", "is_training", "deterministic", "use_running_average"]


@pytest.mark.parametrize("name", NAMES)
def test_a_mode_of_any_of_the_fields_names_trains(name):
    model = named(name)
    assert train_kwargs(model, train=True) == {name: NAMES.index(name) < 3}
    assert train_kwargs(model, train=False) == {name: NAMES.index(name) >= 3}
    state = create_state(model, optax.sgd(0.0), (4, 4, 3), key=jax.random.key(0))
    rng = np.random.default_rng(0)
    mean, losses = np.zeros(3), []
    for _ in range(60):
        images = rng.normal(5.0, 1.0, (8, 4, 4, 3)).astype(np.float32)
        mean = 0.9 * mean + 0.1 * images.astype(np.float64).mean((0, 1, 2))
        state, metrics = train_step(state, {"image": images, "label": np.arange(8) % 4})
    np.testing.assert_allclose(state.batch_stats["BatchNorm_0"]["mean"], mean, rtol=1e-5)
    assert 4.9 < mean.mean() < 5.1
    for _ in range(2):  # dropout is drawn anew in each step
        state, metrics = train_step(state, {"image": images, "label": np.arange(8) % 4})
        losses.append(float(metrics.loss))
    assert losses[0] != losses[1]
    with watch_modes() as seen:
        jax.eval_shape(lambda s: s.apply_fn(s.variables, images, train=False), state)
    assert seen == {"BatchNorm_0": False, "Dropout_0": False}


def called(annotation="bool", default="=False", name="phase", base=nn.Module):
    space = {"nn": nn}
    exec(f"@nn.compact\ndef __call__(self, x, *, {name}: {annotation}{default}):\n    return x\n", space)
    return type("Odd", (base,), {"__call__": space["__call__"], "__module__": __name__})()


@pytest.mark.parametrize(
    "model",
    [
        called(),
        called("'bool | None'", "=None", "is_test"),
        called("object", "=True", "inference"),
        called(default="", name="in_train_mode"),
        nn.Sequential([called(name="frozen")]),
        called("object", "=None", "is_train"),
        called("object", "", "is_train"),
        called("str", "='eval'", "mode"),
    ],
)
def test_an_argument_that_may_be_a_mode_is_refused_by_name(model):
    names = "phase|is_test|inference|in_train_mode|frozen|is_train|mode"
    with pytest.raises(UsageError, match=rf"an argument '({names})', and"):
        train_kwargs(model, train=False)
    with pytest.raises(UsageError, match="Call it train, training, is_training, deterministic or use_running_average"):
        create_state(model, optax.sgd(0.1), (4, 4, 3), key=jax.random.key(0))


def test_what_is_no_mode_is_left_alone():
    mask = called("object", "=None", "train_mask")
    for model in (called(name="return_features"), called(name="features_only"), called("int", "=0"), CONV(), mask):
        assert train_kwargs(model, train=True) == {}
    for layer in (functools.partial(nn.avg_pool, window_shape=(2, 2)), jax.nn.softmax):
        assert train_kwargs(nn.Sequential([layer]), train=True) == {}
    # What a field says is not said again by the call, which linen refuses.
    for layer in (nn.Dropout(0.5, deterministic=True), nn.BatchNorm(use_running_average=True)):
        model = nn.Sequential([layer, nn.Dense(2)])
        assert train_kwargs(model, train=True) == {}
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 3)))
    assert train_kwargs(nn.Sequential([nn.BatchNorm()]), train=True) == {"use_running_average": False}
