import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnnjax.layers import BatchNorm, LayerNorm

SHAPE = (4, 5, 3, 6)


def draw(seed=0, shape=SHAPE):
    return jnp.asarray(np.random.default_rng(seed).normal(2.0, 3.0, size=shape), jnp.float32)


def variables():
    rng = np.random.default_rng(1)
    channel = {name: jnp.asarray(rng.uniform(0.5, 2.0, size=6), jnp.float32) for name in ("a", "b", "c", "d")}
    return {
        "params": {"scale": channel["a"], "bias": channel["b"]},
        "batch_stats": {"mean": channel["c"], "var": channel["d"]},
    }


@pytest.mark.parametrize("running", [False, True])
def test_equals_linens_with_linens_variables(running):
    options = {"use_running_average": running, "momentum": 0.7, "epsilon": 1e-3}
    x, g = draw(), draw(2)

    def both(norm, v, x):
        y, updates = norm.apply(v, x, mutable=["batch_stats"])
        return (y * g).sum(), (y, updates)

    results = [
        jax.value_and_grad(lambda v, x, norm=norm: both(norm, v, x), (0, 1), has_aux=True)(variables(), x)
        for norm in (BatchNorm(**options), nn.BatchNorm(**options))
    ]
    for ours, theirs in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-4)


def test_normalises_in_float64_arithmetic():
    x = draw()
    y, updates = BatchNorm(use_running_average=False, epsilon=1e-3, momentum=0.9).apply(
        variables(), x, mutable=["batch_stats"]
    )
    wide = np.asarray(x, np.float64)
    mean, var = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
    scale, bias = (np.asarray(variables()["params"][name], np.float64) for name in ("scale", "bias"))
    np.testing.assert_allclose(y, (wide - mean) / np.sqrt(var + 1e-3) * scale + bias, rtol=1e-5, atol=1e-5)
    old = variables()["batch_stats"]
    for name, new in (("mean", mean), ("var", var)):
        expected = 0.9 * np.asarray(old[name], np.float64) + 0.1 * new
        np.testing.assert_allclose(updates["batch_stats"][name], expected, rtol=1e-5)


def test_computes_in_float32_and_returns_its_dtype(strict_dtypes):
    x = draw().astype(jnp.bfloat16)
    norm = BatchNorm(use_running_average=False, use_scale=False)
    v = norm.init(jax.random.key(0), x)
    assert set(v["params"]) == {"bias"}
    assert {leaf.dtype for leaf in jax.tree.leaves(v)} == {jnp.dtype("float32")}
    assert (v["batch_stats"]["mean"] == 0).all()  # initialising is no training step
    y, updates = norm.apply(v, x, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    exact = np.asarray(x.astype(jnp.float32), np.float64).mean((0, 1, 2))
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * exact, rtol=1e-5)
    assert BatchNorm(use_running_average=True, dtype=jnp.float16).apply(variables(), x).dtype == jnp.float16


def test_integers_are_normalised_in_float32():
    x = np.random.default_rng(0).integers(0, 200, (4, 5, 6, 3)).astype(np.uint8)
    layer = BatchNorm(use_running_average=False)
    variables = layer.init(jax.random.key(0), x)
    y = layer.apply(variables, x, mutable=["batch_stats"])[0]
    wide = x.astype(np.float64)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + 1e-5), atol=1e-5)


@jax.jit
def train_step(x, g, stats):
    """Return the output, both gradients and the new statistics of one training step."""
    norm = BatchNorm(use_running_average=False, use_bias=False)

    def loss(x, scale):
        y, new = norm.apply({"params": {"scale": scale}, "batch_stats": stats}, x, mutable=["batch_stats"])
        return (y * g).sum(), (y, new["batch_stats"])

    (_, (y, new)), (dx, dscale) = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, jnp.full(x.shape[3], 1.5))
    return y, dx, dscale, new["var"]


def in_float64(x, g):
    """Return the same, written out."""
    x, g, axes = np.asarray(x, np.float64), np.asarray(g, np.float64), (0, 1, 2)
    deviation = np.sqrt(x.var(axes) + 1e-5)
    normal = (x - x.mean(axes)) / deviation
    dx = 1.5 / deviation * (g - g.mean(axes) - normal * (g * normal).mean(axes))
    return 1.5 * normal, dx, (g * normal).sum(axes), 0.1 * x.var(axes) + 0.9e-3


@pytest.mark.parametrize("shape", [(8, 6, 5, 7), (32, 16, 16, 32)])  # one sum, and sums of slices
@pytest.mark.parametrize(("mean", "std"), [(0, 1), (10, 0.01), (100, 0.1), (4096, 1)])
@pytest.mark.parametrize("strange", [None, (0, 0, 0), (0, slice(None)), (slice(None), 3), (slice(None), 8, 0)])
def test_a_mean_far_from_zero_costs_no_digits(shape, mean, std, strange):
    rng = np.random.default_rng(3)
    x, g = rng.normal(mean, std, shape).astype(np.float32), rng.normal(0.5, 1, shape).astype(np.float32)
    if strange is not None:  # outliers: a first pixel, a first image, the very row that the centre is taken from
        x[tuple(min(i, shape[1] - 1) if isinstance(i, int) else i for i in strange)] += 1000 * std
    stats = {"mean": jnp.full(shape[3], -1e6), "var": jnp.full(shape[3], 1e-3)}  # far off
    for found, expected in zip(train_step(x, g, stats), in_float64(x, g), strict=True):
        np.testing.assert_allclose(found, expected, rtol=3e-5, atol=1e-5 * np.abs(expected).max())


def test_pytorchs_error_is_no_smaller():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = rng.normal(4096, 1, (16, 12, 12, 8)).astype(np.float32)
    theirs = torch.nn.functional.batch_norm(torch.tensor(x).permute(0, 3, 1, 2), None, None, training=True)
    exact = in_float64(x, np.zeros_like(x))[0] / 1.5
    ours = BatchNorm(use_running_average=False, use_scale=False, use_bias=False)
    y, _ = ours.apply({"batch_stats": {"mean": jnp.zeros(8), "var": jnp.ones(8)}}, x, mutable=["batch_stats"])
    assert np.abs(y - exact).max() <= np.abs(theirs.permute(0, 2, 3, 1).numpy() - exact).max()


@pytest.mark.parametrize("shape", [(1, 1, 1, 6), (1, 6)])
def test_refuses_to_train_on_one_value_a_channel(shape):
    x = jnp.ones(shape)
    training = BatchNorm(use_running_average=False)
    with pytest.raises(ValueError, match="expected more than one value a channel to train on, got shape"):
        training.apply(variables(), x, mutable=["batch_stats"])
    assert BatchNorm(use_running_average=True).apply(variables(), x).shape == shape
    assert training.init(jax.random.key(0), x)["batch_stats"]["mean"].shape == (6,)  # statistics are as they were


def test_no_images_leave_the_statistics_alone():
    y, updates = BatchNorm(use_running_average=False).apply(
        variables(), jnp.ones((0, 4, 4, 6)), mutable=["batch_stats"]
    )
    assert y.shape == (0, 4, 4, 6)
    for name, value in variables()["batch_stats"].items():
        np.testing.assert_array_equal(updates["batch_stats"][name], value)


def test_layer_norm_is_exact_far_from_zero():
    x = (np.random.default_rng(0).normal(size=(2, 3, 4, 6)) + 1e4).astype(np.float32)
    scale, bias = np.random.default_rng(1).normal(size=(2, 6)).astype(np.float32)
    exact = x.astype(np.float64)
    exact -= exact.mean(-1, keepdims=True)
    exact /= np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-6)
    found = LayerNorm().apply({"params": {"scale": scale, "bias": bias}}, x)
    np.testing.assert_allclose(found, exact * scale + bias, atol=5e-3)
    assert LayerNorm(dtype=jnp.bfloat16).apply({"params": {"scale": scale, "bias": bias}}, x).dtype == jnp.bfloat16
