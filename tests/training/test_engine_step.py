"""What a step can do beyond the plain one: accumulate, average, skip, recompute, mix, mirror."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from cnnjax.training import create_state, eval_step, make_eval_step, make_train_step, softmax_cross_entropy
from tests.training.nets import LinearNet, TinyNet, random_batch

LINEAR, TINY, SGD = LinearNet(), TinyNet(dropout=0.0), optax.sgd(0.1, momentum=0.9)


class AuxiliaryNet(nn.Module):
    """A net with an auxiliary head and no batch norm."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.Conv(3, (3, 3))(x))
        self.sow("intermediates", "aux_logits", nn.Dense(4)(x.mean((1, 2))))
        return nn.Dense(4)(x.reshape(len(x), -1))


AUXILIARY = AuxiliaryNet()


def fresh(model=LINEAR, tx=SGD, **options):
    return create_state(model, tx, (6, 5, 2), key=jax.random.key(0), **options)


@pytest.mark.parametrize("parts", [2, 4, 8])
@pytest.mark.parametrize("model", [LINEAR, AUXILIARY], ids=["linear", "auxiliary"])
def test_accumulated_micro_batches_are_the_whole_batch_without_batch_norm(model, parts):
    batch = random_batch(mask=np.array([1, 1, 0, 1, 1, 1, 0, 1], bool))
    whole, whole_metrics = make_train_step()(fresh(model), batch)
    parted, metrics = make_train_step(accumulate=parts)(fresh(model), batch)
    chex.assert_trees_all_close(parted.params, whole.params, rtol=1e-5, atol=1e-7)
    assert (metrics.examples, int(metrics.top1_count)) == (6, int(whole_metrics.top1_count))
    np.testing.assert_allclose(metrics.loss_sum, whole_metrics.loss_sum, rtol=1e-6)
    assert int(parted.step) == 1


def test_batch_norm_sees_micro_batches_and_moves_once_for_each():
    batch = random_batch()
    state, _ = make_train_step(accumulate=2)(fresh(TINY), batch)
    kernel = fresh(TINY).params["Conv_0"]
    mean = np.zeros(3)
    for part in (batch.image[0::2], batch.image[1::2]):
        convolved = nn.Conv(3, (3, 3), use_bias=False).apply({"params": kernel}, part)
        mean = 0.9 * mean + 0.1 * np.asarray(convolved, np.float64).mean((0, 1, 2))
    np.testing.assert_allclose(state.batch_stats["BatchNorm_0"]["mean"], mean, rtol=1e-4, atol=1e-6)


def test_a_batch_that_micro_batches_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="expected a batch that 3 micro-batches divide evenly, got 8"):
        make_train_step(accumulate=3)(fresh(), random_batch())
    with pytest.raises(ValueError, match=r"accumulate >= 1 and ema_decay in \(0, 1\), got 0"):
        make_train_step(accumulate=0)


def test_the_moving_average_is_numpys_and_is_what_is_evaluated():
    step = make_train_step(ema_decay=0.99)
    state = fresh(TINY, ema=True)
    expected = jax.tree.map(lambda x: np.asarray(x, np.float64), state.variables)
    for number in range(4):
        state, _ = step(state, random_batch(number))
        decay = min(0.99, (1 + number) / (10 + number))
        new = jax.tree.map(lambda x: np.asarray(x, np.float64), state.variables)
        expected = optax.tree.add(optax.tree.scale(decay, expected), optax.tree.scale(1 - decay, new))
    assert int(state.ema["count"]) == 4
    chex.assert_trees_all_close(state.averaged.variables, expected, rtol=1e-5, atol=1e-6)
    averaged, batch = eval_step(state, random_batch(9)), random_batch(9)
    logits = TINY.apply(state.averaged.variables, batch.image)
    np.testing.assert_allclose(averaged.loss_sum, softmax_cross_entropy(logits, batch.label).sum(), rtol=1e-5)
    assert abs(float(averaged.loss_sum) - float(eval_step(state.replace(ema={}), batch).loss_sum)) > 1e-4


def test_an_average_without_its_decay_is_refused_and_so_is_the_reverse():
    for state, step in ((fresh(ema=True), make_train_step()), (fresh(), make_train_step(ema_decay=0.9))):
        with pytest.raises(ValueError, match=r"ema_decay=.*together with create_state\(ema=True\)"):
            step(state, random_batch())


def poisoned(kind):
    batch = random_batch()
    if kind == "image":
        return batch.replace(image=batch.image.at[3, 0, 0, 0].set(jnp.nan))
    return batch.replace(label=batch.label.at[2].set(4))  # no class of the net's four: a NaN loss


@pytest.mark.parametrize("kind", ["image", "label"])
def test_a_step_that_is_not_finite_is_skipped_whole(kind):
    step = make_train_step(skip_nonfinite=True, ema_decay=0.9)
    state, _ = step(fresh(TINY, ema=True), random_batch())
    before = jax.tree.map(np.array, (state.params, state.batch_stats, state.opt_state, state.ema))
    state, metrics = step(state, poisoned(kind))
    chex.assert_trees_all_equal(
        jax.tree.map(np.array, (state.params, state.batch_stats, state.opt_state, state.ema)), before
    )
    assert (int(state.step), int(metrics.nonfinite), int(metrics.count), float(metrics.loss_sum)) == (2, 1, 0, 0.0)
    state, metrics = step(state, random_batch(1))
    assert (int(metrics.nonfinite), metrics.examples) == (0, 8)


class SquareRootNet(nn.Module):
    """Logits that are finite at zero where their gradient is not."""

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.zeros, (4,))
        return jnp.sqrt(jnp.abs(scale))[None] + 0 * x.sum((1, 2))[:, :1]


def test_finite_losses_with_gradients_that_are_not_are_seen():
    state = create_state(SquareRootNet(), SGD, (6, 5, 2), key=jax.random.key(0))
    state, metrics = make_train_step()(state, random_batch())
    assert np.isfinite(metrics.loss_sum)
    assert int(metrics.nonfinite) == 1


@pytest.mark.parametrize("model", [TINY, AUXILIARY], ids=["norm", "auxiliary"])
def test_recomputation_changes_no_result(model):
    plain, _ = make_train_step()(fresh(model), random_batch())
    spared, _ = make_train_step(remat=True)(fresh(model), random_batch())
    chex.assert_trees_all_close(spared.params, plain.params, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_close(spared.batch_stats, plain.batch_stats, rtol=1e-5, atol=1e-7)


def test_recomputation_keeps_convolutions_and_drops_what_lies_between():
    def kept(**options):
        step = make_train_step(**options)
        text = step.trace(jax.eval_shape(lambda: fresh(TINY)), random_batch()).jaxpr.pretty_print()
        return text.count("remat"), text.count("conv_general_dilated[")

    assert kept()[0] == 0
    names, convolutions = kept(remat=True)
    assert names > 0
    assert convolutions == kept()[1]  # none of them is computed twice


def test_a_mixed_example_has_both_labels_weighted_by_its_share():
    batch = random_batch()
    other, share = jnp.roll(batch.label, 1), jnp.linspace(0.0, 1.0, 8)
    _, metrics = make_train_step()(fresh(), batch.replace(mixed_label=other, mix_weight=share))
    logits = np.asarray(LINEAR.apply(fresh().variables, batch.image), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    rows, weight = np.arange(8), np.asarray(share, np.float64)
    expected = -(weight * log_p[rows, batch.label] + (1 - weight) * log_p[rows, other])
    np.testing.assert_allclose(metrics.loss_sum, expected.sum(), rtol=1e-5)


def test_known_examples_draw_the_same_in_every_batch_and_others_with_the_step():
    seen = []

    def augment(batch, key):
        jax.debug.callback(lambda data: seen.append(tuple(np.asarray(data).tolist())), jax.random.key_data(key))
        return batch

    step = make_train_step(augment=augment)
    known = random_batch().replace(index=jnp.arange(8), epoch=jnp.zeros(8, jnp.int32))
    for batch in (known, random_batch()):
        state = fresh()
        for _ in range(2):
            state, _ = step(state, batch)
        jax.block_until_ready(state)
    jax.effects_barrier()
    assert (len(seen), len(set(seen))) == (4, 3)
    assert seen[0] == seen[1]


def test_mirrored_evaluation_takes_the_mean_over_both_views():
    state, batch = fresh(), random_batch()
    metrics = make_eval_step(flip_tta=True)(state, batch)
    views = [LINEAR.apply(state.variables, image) for image in (batch.image, batch.image[:, :, ::-1])]
    expected = softmax_cross_entropy(jnp.stack(views).mean(0), batch.label).sum()
    np.testing.assert_allclose(metrics.loss_sum, expected, rtol=1e-5)


def test_a_batch_may_be_any_mapping_still():
    batch = random_batch()
    _, metrics = make_train_step()(fresh(), {"image": batch.image, "label": batch.label})
    assert metrics.examples == 8
