"""Whole training runs of LeNet-5 against PyTorch: the same net, images and optimizer give the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models
from cnnjax.training import Batch, create_state, eval_step, make_optimizer, train_step
from tests.optional import torch


def torch_lenet(params):
    """LeNet-5 in PyTorch's own layers, with the given parameters; its flattening is CHW where ours is HWC."""
    p = jax.tree.map(lambda x: torch.from_numpy(np.array(x)), params)
    nn = torch.nn
    c1, c3 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
    c5, f6, output = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)
    with torch.no_grad():
        for layer, name in ((c1, "c1"), (c3, "c3")):
            layer.weight.copy_(p[name]["kernel"].permute(3, 2, 0, 1))
        c5.weight.copy_(p["c5"]["kernel"].reshape(5, 5, 16, 120).permute(3, 2, 0, 1).reshape(120, 400))
        for layer, name in ((f6, "f6"), (output, "output")):
            layer.weight.copy_(p[name]["kernel"].T)
        for layer, name in ((c1, "c1"), (c3, "c3"), (c5, "c5"), (f6, "f6"), (output, "output")):
            layer.bias.copy_(p[name]["bias"])
    relu, pool = nn.ReLU, nn.MaxPool2d
    return nn.Sequential(c1, relu(), pool(2), c3, relu(), pool(2), nn.Flatten(), c5, relu(), f6, relu(), output)


@pytest.mark.parametrize(
    "name", ["momentum", *(pytest.param(name, marks=pytest.mark.slow) for name in ("nesterov", "adamw"))]
)
def test_ten_steps_equal_pytorchs(name):
    tx = make_optimizer(name, 0.01, weight_decay=0.01)
    state = create_state(models.build("lenet5", num_classes=10), tx, (28, 28, 1), key=jax.random.key(0))
    net = torch_lenet(state.params)
    optimizer = {
        "momentum": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, weight_decay=0.01),
        "nesterov": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, weight_decay=0.01, nesterov=True),
        "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.01),
    }[name](net.parameters())
    rng = np.random.default_rng(0)
    for _ in range(10):
        images = rng.normal(size=(8, 28, 28, 1)).astype(np.float32)
        labels = rng.integers(0, 10, 8)
        state, metrics = train_step(state, Batch(jnp.asarray(images), jnp.asarray(labels, jnp.int32)))
        loss = torch.nn.functional.cross_entropy(
            net(torch.from_numpy(images).permute(0, 3, 1, 2)), torch.tensor(labels)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        np.testing.assert_allclose(metrics.loss, loss.item(), rtol=1e-4)
    images = rng.normal(size=(16, 28, 28, 1)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    found = state.apply_fn(state.variables, jnp.asarray(images), train=False)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    predicted = eval_step(state, Batch(jnp.asarray(images), jnp.asarray(expected.argmax(-1), jnp.int32)))
    assert predicted.accuracy == 1.0
