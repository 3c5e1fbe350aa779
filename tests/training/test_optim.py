import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax.errors import UsageError
from cnnjax.training import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule, only_kernels


def test_the_lists_are_what_the_documentation_promises():
    assert set(OPTIMIZERS) == {"sgd", "momentum", "nesterov", "adam", "adamw", "lars", "lamb", "rmsprop"}
    assert set(SCHEDULES) == {"constant", "cosine", "step", "one-cycle"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_goes_downhill(name):
    tx = make_optimizer(name, 0.05, weight_decay=1e-4)
    params = {"w": jnp.array([[1.0, -2.0], [3.0, 0.5]])}
    loss = lambda p: jnp.sum(p["w"] ** 2)  # noqa: E731
    state, before = tx.init(params), loss(params)
    for _ in range(5):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    assert loss(params) < before


def test_momentum_and_nesterov_equal_the_textbook():
    gradients = [1.0, -0.5, 2.0]
    for name, nesterov in (("momentum", False), ("nesterov", True)):
        tx = make_optimizer(name, 0.1, momentum=0.9)
        w, state, velocity, expected = jnp.array(1.0), tx.init(jnp.array(1.0)), 0.0, 1.0
        for g in gradients:
            updates, state = tx.update(jnp.array(g), state, w)
            w = optax.apply_updates(w, updates)
            velocity = 0.9 * velocity + g
            expected -= 0.1 * (g + 0.9 * velocity if nesterov else velocity)
        np.testing.assert_allclose(w, expected, rtol=1e-6)


def test_weight_decay_is_l2_for_sgd_and_decoupled_for_adamw():
    zero, w = jnp.array(0.0), jnp.array(2.0)
    for name, expected in (("sgd", -0.1 * 0.01 * 2.0), ("adamw", -0.1 * 0.01 * 2.0)):
        tx = make_optimizer(name, 0.1, weight_decay=0.01)
        np.testing.assert_allclose(tx.update(zero, tx.init(w), w)[0], expected, rtol=1e-6)
    tx = make_optimizer("adam", 0.1, weight_decay=0.01)  # L2 passes through Adam's normalisation: a full step
    np.testing.assert_allclose(tx.update(zero, tx.init(w), w)[0], -0.1, rtol=1e-4)


PARAMS = {
    "c1": {"kernel": jnp.full((3, 3, 2, 4), 2.0), "bias": jnp.full(4, 2.0)},
    "norm": {"scale": jnp.full(4, 2.0), "bias": jnp.full(4, 2.0)},
    "head": {"kernel": jnp.full((4, 5), 2.0), "bias": jnp.full(5, 2.0)},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_kernels_decay_where_only_they_shall(name):
    """Without gradients nothing but decay moves a parameter."""
    tx = make_optimizer(name, 0.1, weight_decay=0.5, decay_mask=only_kernels)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, PARAMS), tx.init(PARAMS), PARAMS)
    for layer, arrays in updates.items():
        for part, update in arrays.items():
            assert (update < 0).all() if part == "kernel" else (update == 0).all(), f"{layer}/{part}"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rates_are_multiplied_where_the_first_pattern_matches(name):
    rng = np.random.default_rng(0)
    gradients = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), PARAMS)
    plain = make_optimizer(name, 0.1, weight_decay=0.01)
    scaled = make_optimizer(name, 0.1, weight_decay=0.01, rate_factors={"^c1/": 0.5, "norm|c1": 0.0, "bias$": 3.0})
    expected = {"c1": (0.5, 0.5), "norm": (0.0, 0.0), "head": (1.0, 3.0)}
    before, _ = plain.update(gradients, plain.init(PARAMS), PARAMS)
    after, _ = scaled.update(gradients, scaled.init(PARAMS), PARAMS)
    for layer, (weights, bias) in expected.items():
        for part, factor in ((part, bias if part == "bias" else weights) for part in PARAMS[layer]):
            np.testing.assert_allclose(after[layer][part], factor * before[layer][part], rtol=1e-6, err_msg=layer)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_rise_through_the_warm_up_and_stay_positive(name):
    rate = make_schedule(name, 0.4, 100, warmup_steps=10)
    values = np.array([float(rate(step)) for step in range(101)])
    np.testing.assert_allclose(values[:10], np.arange(10) * 0.04, atol=1e-7)
    assert values.max() == pytest.approx(0.4)
    assert values[1:100].min() > 0
    if name != "constant":
        assert values[99] < 0.01


def test_step_schedule_falls_at_its_boundaries():
    rate = make_schedule("step", 1.0, 100, boundaries=(0.5, 0.75), factor=0.1)
    np.testing.assert_allclose([rate(s) for s in (0, 49, 51, 74, 76, 99)], [1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)


@pytest.mark.parametrize("warmup", [0, 3])
def test_two_boundaries_on_one_step_count_twice(warmup):
    rate = make_schedule("step", 1.0, 10 + warmup, warmup_steps=warmup, boundaries=(0.5, 0.55, 0.8), factor=0.1)
    np.testing.assert_allclose([rate(warmup + s) for s in (4, 5, 7, 8)], [1, 0.01, 0.01, 0.001], rtol=1e-6)
    # A short run of a recipe with many falls: BVLC's GoogLeNet, 31 of them in 10 steps.
    rate = make_schedule("step", 1.0, 10, boundaries=tuple(8 * n / 250 for n in range(1, 32)), factor=0.96)
    np.testing.assert_allclose(rate(9), 0.96 ** sum(8 * n / 250 * 10 < 10 for n in range(1, 32)), rtol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_refuses_the_momentum_that_it_has_no_use_for(name):
    if name in ("momentum", "nesterov", "lars", "rmsprop"):
        make_optimizer(name, 0.1, momentum=0.9)
    else:
        with pytest.raises(UsageError, match=rf"make_optimizer: momentum: {name} has no momentum\. .* take momentum, "):
            make_optimizer(name, 0.1, momentum=0.9)
    with pytest.raises(UsageError, match=r"decay_mask: no parameter decays\. Leave it out, or give a weight decay"):
        make_optimizer(name, 0.1, decay_mask=only_kernels)


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"step"}))
@pytest.mark.parametrize("option", [{"boundaries": (0.5,)}, {"factor": 0.1}])
def test_a_schedule_without_steps_refuses_their_options(name, option):
    with pytest.raises(UsageError, match=rf"make_schedule: {next(iter(option))}: the {name} schedule does not fall in"):
        make_schedule(name, 0.1, 100, **option)


def test_refuses_wrong_names_and_numbers():
    with pytest.raises(UsageError, match="unknown optimizer 'adma': did you mean 'adam'"):
        make_optimizer("adma", 0.1)
    with pytest.raises(UsageError, match="unknown schedule 'cosin': did you mean 'cosine'"):
        make_schedule("cosin", 0.1, 10)
    with pytest.raises(UsageError, match=r"momentum in \[0, 1\)"):
        make_optimizer("momentum", 0.1, momentum=1.0)
    with pytest.raises(UsageError, match="warmup_steps=10, total_steps=10"):
        make_schedule("cosine", 0.1, 10, warmup_steps=10)
    for share in (-0.5, 0.0, 1.0, 30):  # in steps or epochs, as others have it, the rate would never fall
        with pytest.raises(UsageError, match=r"boundaries as shares of the steps, in \(0, 1\), got \(0\.5, "):
            make_schedule("step", 0.1, 100, boundaries=(0.5, share))
    assert make_schedule("step", 1.0, 100, boundaries=())(99) == 1.0


def test_rmsprop_equals_the_textbook_with_inceptions_constants():
    tx = make_optimizer("rmsprop", 0.1, momentum=0.0)
    w, square, expected = jnp.array(1.0), 0.0, 1.0
    state = tx.init(w)
    for g in (1.0, -0.5, 2.0):
        updates, state = tx.update(jnp.array(g), state, w)
        w = optax.apply_updates(w, updates)
        square = 0.9 * square + 0.1 * g**2
        expected -= 0.1 * g / (square + 1.0) ** 0.5
    np.testing.assert_allclose(w, expected, rtol=1e-6)


def test_gradients_are_clipped_by_their_common_norm():
    tx = make_optimizer("sgd", 1.0, clip_norm=2.0)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    gradients = {"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)}
    updates, _ = tx.update(gradients, tx.init(params), params)
    np.testing.assert_allclose(updates["a"], [-1.2, 0.0], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], -1.6, rtol=1e-6)
    with pytest.raises(UsageError, match="expected clip_norm > 0, got 0"):
        make_optimizer("sgd", 1.0, clip_norm=0.0)
