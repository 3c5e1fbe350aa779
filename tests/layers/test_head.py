import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.layers import DenseHead


def test_the_head_is_dense_layers_with_relu_between(strict_dtypes):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 2, 2, 4)).astype(np.float32)
    head = DenseHead(5, hidden=(8, 6))
    shapes = jax.eval_shape(head.init, jax.random.key(0), x)["params"]
    assert {name: leaf["kernel"].shape for name, leaf in shapes.items()} == {
        "dense1": (16, 8),
        "dense2": (8, 6),
        "logits": (6, 5),
    }
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    y = x.reshape(3, -1).astype(np.float64)
    for name in ("dense1", "dense2", "logits"):
        y = y @ params[name]["kernel"] + params[name]["bias"]
        y = y if name == "logits" else np.maximum(y, 0)
    np.testing.assert_allclose(head.apply({"params": params}, x), y, rtol=1e-5, atol=1e-4)
    low = DenseHead(5, hidden=(8, 6), dtype=jnp.bfloat16)
    logits = low.apply({"params": params}, x)
    assert logits.dtype == jnp.float32
    assert np.abs(logits - y).max() < 0.05 * np.abs(y).max()


def test_dropout_is_before_the_layer_that_it_is_given_for_and_only_in_training():
    x = np.ones((1, 1000), np.float32)
    head = DenseHead(1000, dropout=(0.25,), kernel_init=lambda key, shape, dtype: jnp.eye(*shape, dtype=dtype))
    variables = head.init(jax.random.key(0), x)
    np.testing.assert_array_equal(head.apply(variables, x), x)
    dropped = np.asarray(head.apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)}))
    assert set(np.unique(dropped.round(5))) == {np.float32(0), np.float32(4 / 3).round(5)}
    assert abs((dropped == 0).mean() - 0.25) < 5 * (0.25 * 0.75 / 1000) ** 0.5
    # A shorter sequence is filled up with zeros.
    last = DenseHead(1000, hidden=(1000,), dropout=(0.0, 0.25)).init(jax.random.key(0), x)
    assert jax.tree.structure(last) == jax.tree.structure(DenseHead(1000, hidden=(1000,)).init(jax.random.key(0), x))


@pytest.mark.parametrize("dropout", [(0.1, 0.2), (1.5,), (-0.1,)])
def test_bad_rates_get_one_sentence(dropout):
    with pytest.raises(ValueError, match=r"^DenseHead: expected at most 1 rates in \[0, 1\], one a layer, got"):
        DenseHead(5, dropout=dropout).init(jax.random.key(0), jnp.ones((2, 3)))
