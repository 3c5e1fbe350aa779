import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from cnnjax.errors import UsageError
from cnnjax.layers import ConvNormAct, DenseHead
from cnnjax.layers.norm import BatchNorm
from cnnjax.training import create_state, eval_step, train_step
from cnnjax.training.state import frozen_paths
from tests.training.nets import TinyNet, random_batch


class TwoStages(nn.Module):
    """Two convolutions with batch norm, and a head."""

    @nn.compact
    def __call__(self, x, *, train=False):
        for stage in ("stage1", "stage2"):
            x = ConvNormAct(3, 3, norm=BatchNorm, name=stage)(x, train=train)
        return DenseHead(4, name="head")(x.mean(axis=(1, 2)), train=train)


def bits(tree):
    return {
        jax.tree_util.keystr(keys): np.asarray(leaf).tobytes()
        for keys, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def trained(state, steps=3):
    before = bits(state.variables)
    for seed in range(steps):
        state, metrics = train_step(state, random_batch(seed))
    after = bits(state.variables)
    return state, {name for name in before if before[name] == after[name]}, set(before), metrics


def test_frozen_parameters_and_statistics_keep_every_bit():
    tx = optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.1))
    state = create_state(TwoStages(), tx, (6, 5, 2), key=jax.random.key(0), freeze="^stage1/")
    # A bit that adding zero would change.
    params = state.params
    params["stage1"]["norm"]["bias"] = jnp.full((3,), -0.0)
    state, same, every, _ = trained(state.replace(params=params))
    assert same == {name for name in every if "stage1" in name}
    assert len(same) == 5
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if getattr(leaf, "shape", None) == (3, 3, 2, 3)]
    assert not moments  # no optimizer state for what does not move


def test_a_frozen_layer_normalises_as_in_evaluation():
    # All but the logits' bias: the training step's own loss is then the evaluation's.
    state = create_state(TwoStages(), optax.sgd(0.0), (6, 5, 2), key=jax.random.key(0), freeze="stage|kernel")
    expected = eval_step(state, random_batch(0)).loss
    _, metrics = train_step(state, random_batch(0))
    np.testing.assert_allclose(metrics.loss, expected, rtol=1e-6)
    free = create_state(TwoStages(), optax.sgd(0.0), (6, 5, 2), key=jax.random.key(0))
    assert abs(train_step(free, random_batch(0))[1].loss - expected) > 1e-4


def test_linens_own_batch_norm_freezes_too():
    state = create_state(TinyNet(dropout=0.0), optax.sgd(0.1), (6, 5, 2), key=jax.random.key(0), freeze="Norm|Conv")
    _, same, every, _ = trained(state)
    assert same == {name for name in every if "Dense" not in name}


class Calls(nn.Module):
    """Batch norms that are told their mode by the call: by a keyword, by place, by another name, by no name at all."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.BatchNorm(momentum=0.9, name="keyword")(x, use_running_average=not train)
        x = nn.BatchNorm(momentum=0.9, name="place")(x, not train)
        x = Centred(name="own")(x, train=train)
        return nn.Dense(4)(Stubborn(name="stubborn")(x).mean(axis=(1, 2)))


class Centred(nn.Module):
    """A normalisation of one's own, which says `train`."""

    @nn.compact
    def __call__(self, x, train):
        mean = self.variable("batch_stats", "moving", jnp.zeros, x.shape[-1:])
        if not train:
            return x - jnp.broadcast_to(mean.value, x.shape)
        mean.value = 0.5 * mean.value + 0.5 * x.mean((0, 1, 2))
        return x - x.mean((0, 1, 2), keepdims=True)


class Stubborn(nn.Module):
    """A layer that knows no mode, and moves its statistics always."""

    @nn.compact
    def __call__(self, x):
        mean = self.variable("batch_stats", "moving", jnp.ones, x.shape[-1:])
        if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
            mean.value += 1
        return x


def test_norms_that_are_told_their_mode_by_the_call_freeze_too():
    names = ("keyword", "place", "own", "stubborn")
    for frozen in (("place", "own"), names):
        tx, pattern = optax.sgd(0.1), "|".join((*frozen, "bias"))
        state = create_state(Calls(), tx, (6, 5, 2), key=jax.random.key(0), freeze=pattern)
        if frozen == names:  # all of the net then does in training what it does in evaluation
            expected = eval_step(state, random_batch(0)).loss
        _, same, every, metrics = trained(state, steps=1)
        if frozen == names:
            np.testing.assert_allclose(metrics.loss, expected, rtol=1e-6)
        stats = {name for name in every if "kernel" not in name and "scale" not in name and "bias" not in name}
        assert len(stats) == 6
        assert same & stats == {name for name in stats if any(n in name for n in frozen)}


def test_a_pattern_that_freezes_nothing_or_everything_is_refused():
    params = {"stem": {"kernel": jnp.zeros(2)}, "head": {"bias": jnp.zeros(2)}}
    assert frozen_paths(params, "stem") == ["stem/kernel"]
    with pytest.raises(UsageError, match=r"'stage' matches no parameter. They are called, for example, head/bias"):
        frozen_paths(params, "stage")
    with pytest.raises(UsageError, match="matches every parameter"):
        frozen_paths(params, ".")
    with pytest.raises(UsageError, match="expected a regular expression, got '\\('"):
        frozen_paths(params, "(")
