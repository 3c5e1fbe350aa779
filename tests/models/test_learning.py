"""The 32-pixel nets learn: each takes one batch of random images by heart through the real training step."""

import chex
import jax
import numpy as np
import optax
import pytest

from cnnjax import models
from cnnjax.training import Batch, create_state, make_train_step, softmax_cross_entropy


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20", "vgg16_cifar", "googlenet_cifar", "resnet18_cifar"])
def test_overfits_one_batch(name):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 32, 32, 3)).astype(np.float32)
    batch = Batch(image=images, label=np.arange(4, dtype=np.int32))
    model = models.build(name, num_classes=10)
    state = create_state(model, optax.adam(1e-3), models.input_shape(name), key=jax.random.key(0))
    chex.clear_trace_counter()
    step = make_train_step(loss=chex.assert_max_traces(softmax_cross_entropy, n=1))
    losses = []
    for _ in range(20):
        state, metrics = step(state, batch)
        losses.append(metrics.loss)
    chex.assert_tree_all_finite(state.params)
    chex.assert_tree_all_finite(state.batch_stats)
    assert metrics.accuracy == 1.0
    assert losses[-1] < 0.05 * losses[0]
