import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from flax import linen as nn

from cnnjax.training import Batch, create_state, eval_step, evaluate, make_eval_step, make_train_step, train_step
from tests.training.nets import LinearNet, TinyNet, random_batch

# One module and one optimizer for most tests: they are static, so that each new one would be a compile.
TINY, SGD = TinyNet(), optax.sgd(0.1)


def tiny_state(model=TINY, tx=SGD, seed=0):
    return create_state(model, tx, (6, 5, 2), key=jax.random.key(seed))


def test_one_sgd_step_equals_numpy():
    state = tiny_state(LinearNet(), optax.sgd(0.5))
    batch = random_batch(examples=5, mask=np.array([1, 1, 0, 1, 0], bool))
    kernel, bias = (np.array(state.params["Dense_0"][n], np.float64) for n in ("kernel", "bias"))
    x = np.array(batch.image, np.float64).reshape(5, -1)
    kept = np.array(batch.mask)
    probabilities = scipy.special.softmax(x @ kernel + bias, axis=-1)
    targets = np.eye(4)[np.array(batch.label)]
    error = (probabilities - targets) * kept[:, None] / kept.sum()
    losses = -np.log((probabilities * targets).sum(-1))

    state, metrics = train_step(state, batch)
    np.testing.assert_allclose(state.params["Dense_0"]["kernel"], kernel - 0.5 * x.T @ error, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.params["Dense_0"]["bias"], bias - 0.5 * error.sum(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics.loss, losses[kept].mean(), rtol=1e-5)
    assert (metrics.examples, int(state.step)) == (3, 1)


def test_the_state_is_donated_and_traced_once():
    trace = chex.assert_max_traces(n=1)
    chex.clear_trace_counter()
    step = make_train_step(
        loss=trace(lambda logits, labels: optax.softmax_cross_entropy_with_integer_labels(logits, labels))
    )
    state = tiny_state()
    first = state
    for seed in range(3):
        state, _ = step(state, random_batch(seed))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first.params))
    assert int(state.step) == 3


def test_the_key_that_made_the_state_survives_the_steps():
    key = jax.random.key(3)
    state = create_state(TINY, SGD, (6, 5, 2), key=key)
    train_step(state, random_batch())
    assert jax.random.uniform(key).shape == ()


def test_variables_given_are_copied_before_they_are_donated():
    variables = TINY.init(jax.random.key(0), jnp.zeros((1, 6, 5, 2)))
    state = create_state(TINY, SGD, (6, 5, 2), key=jax.random.key(1), variables=variables)
    train_step(state, random_batch())
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(variables))


def test_batch_statistics_move_in_training_and_rest_in_evaluation():
    state = tiny_state(TinyNet(dropout=0.0))
    batch = random_batch()
    convolved = nn.Conv(3, (3, 3), use_bias=False).apply({"params": state.params["Conv_0"]}, batch.image)
    mean = 0.1 * np.array(convolved).mean((0, 1, 2))
    state, _ = train_step(state, batch)
    np.testing.assert_allclose(state.batch_stats["BatchNorm_0"]["mean"], mean, rtol=1e-4, atol=1e-6)
    before = jax.tree.map(np.array, state.batch_stats)
    eval_step(state, batch)
    chex.assert_trees_all_equal(before, state.batch_stats)


def test_dropout_differs_from_step_to_step_but_not_from_run_to_run():
    runs = []
    for _ in range(2):
        state, losses = tiny_state(tx=optax.sgd(0.0)), []
        for _ in range(3):
            state, metrics = train_step(state, random_batch())
            losses.append(float(metrics.loss))
        runs.append(losses)
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 3


def test_auxiliary_heads_weigh_in_and_do_not_change_the_metrics():
    class WithHead(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            x = x.reshape(x.shape[0], -1)
            self.sow("intermediates", "aux_logits_1", nn.Dense(4, name="aux")(x))
            self.sow("intermediates", "features", x)
            return nn.Dense(4, name="main")(x)

    batch = random_batch()
    moved = {}
    for weight in (0.0, 0.3, 0.6):
        state = tiny_state(WithHead(), optax.sgd(1.0))
        before = jax.tree.map(np.array, state.params)
        state, metrics = make_train_step(aux_weight=weight)(state, batch)
        moved[weight] = jax.tree.map(lambda a, b: np.array(a) - b, state.params, before)
        moved[weight]["loss"] = float(metrics.loss)
    chex.assert_trees_all_close(moved[0.0]["main"], moved[0.6]["main"], atol=1e-7)
    np.testing.assert_allclose(moved[0.6]["aux"]["kernel"], 2 * moved[0.3]["aux"]["kernel"], rtol=1e-3, atol=1e-6)
    assert np.abs(moved[0.3]["aux"]["kernel"]).max() > 1e-3
    assert np.all(moved[0.0]["aux"]["kernel"] == 0)
    assert moved[0.0]["loss"] == moved[0.6]["loss"]


@pytest.mark.parametrize("size", [1, 3, 16])
def test_every_example_counts_once_whatever_the_batch(size):
    state = tiny_state()
    whole = random_batch(examples=10)
    expected = evaluate(state, [whole], eval_step=make_eval_step(confusion=True))
    batches = []
    for start in range(0, 10, size):
        index = np.minimum(np.arange(start, start + size), 9)
        kept = np.arange(start, start + size) < 10
        batches.append(Batch(whole.image[index], whole.label[index], jnp.asarray(kept)))
    found = evaluate(state, batches, eval_step=make_eval_step(confusion=True))
    assert found.examples == 10
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
    np.testing.assert_array_equal(found.confusion, expected.confusion)


def test_a_mapping_without_a_mask_is_a_batch_too():
    batch = random_batch()
    as_mapping = eval_step(tiny_state(), {"image": batch.image, "label": batch.label})
    assert as_mapping.compute() == eval_step(tiny_state(), batch).compute()


def test_refuses_what_would_train_on_nonsense():
    state = tiny_state()
    with pytest.raises(TypeError, match="expected float images, got uint8"):
        eval_step(state, {"image": jnp.zeros((2, 6, 5, 2), jnp.uint8), "label": jnp.zeros(2, jnp.int32)})
    with pytest.raises(ValueError, match="at least one batch, got none"):
        evaluate(state, [])


def test_a_module_may_demand_its_mode():
    class Demanding(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            return nn.Dense(4)(nn.Dropout(0.5, deterministic=not train)(x.reshape(x.shape[0], -1)))

    state, metrics = train_step(tiny_state(Demanding()), random_batch())
    assert metrics.examples == eval_step(state, random_batch()).examples == 8


def test_create_state_says_what_it_cannot_take(caplog):
    with caplog.at_level("INFO", logger="cnnjax"):
        state = tiny_state(LinearNet())
    assert caplog.messages == ["LinearNet: 244 parameters"]
    assert repr(state) == "TrainState(step=0, 244 parameters)"
    with pytest.raises(ValueError, match=r"expected input_shape \(H, W, C\)"):
        create_state(LinearNet(), optax.sgd(0.1), (28, 28), key=jax.random.key(0))

    class Counting(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.variable("cache", "calls", jnp.zeros, ())
            return nn.Dense(2)(x.reshape(x.shape[0], -1))

    with pytest.raises(ValueError, match=r"got \['cache'\] too"):
        tiny_state(Counting())


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        ({"images": np.ones((2, 4, 4, 1)), "labels": np.zeros(2, int)}, "keys ['images', 'labels']"),
        ((np.ones((2, 4, 4, 1)), np.zeros(2, int)), "got tuple"),
    ],
)
def test_what_is_no_batch_gets_one_sentence(batch, got):
    for step in (train_step, eval_step):
        with pytest.raises(TypeError, match=r"^train_step: expected a cnnjax.data.Batch or a mapping with") as caught:
            step(tiny_state(), batch)
        assert got in str(caught.value)
        assert "`image`" in step.__doc__
