import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.layers import ConvNeXtBlock, LayerScale


def test_a_block_starts_as_almost_nothing():
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 4)).astype(np.float32)
    y, variables = jax.jit(ConvNeXtBlock().init_with_output)(jax.random.key(0), x)
    np.testing.assert_allclose(y, x, atol=1e-4)
    assert np.abs(y - x).max() > 0
    assert set(variables["params"]) == {"depthwise", "norm", "dense1", "dense2", "layer_scale"}


def test_a_scale_multiplies_channels():
    x = jnp.ones((2, 3, 4), jnp.bfloat16)
    y = LayerScale().apply({"params": {"scale": jnp.arange(4.0)}}, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, np.broadcast_to(np.arange(4.0), (2, 3, 4)))
