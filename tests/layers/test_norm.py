import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnnjax.layers import BatchNorm

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
