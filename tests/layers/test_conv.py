import chex
import jax
import numpy as np
from flax import linen as nn

from cnnjax.layers import Conv


def test_is_linens_convolution_with_the_same_parameters():
    images = np.random.default_rng(0).normal(size=(3, 9, 7, 2)).astype(np.float32)
    options = {"features": 4, "kernel_size": (3, 2), "strides": 2, "padding": ((1, 0), (2, 1))}
    ours, theirs = Conv(**options), nn.Conv(**options)
    variables = theirs.init(jax.random.key(0), images)
    chex.assert_trees_all_equal(ours.init(jax.random.key(0), images), variables)

    def loss(layer):
        return lambda variables, images: (layer.apply(variables, images) ** 2).sum()

    expected = jax.jit(jax.value_and_grad(loss(theirs), (0, 1)))(variables, images)
    found = jax.jit(jax.value_and_grad(loss(ours), (0, 1)))(variables, images)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)
