import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnnjax.layers import (
    BasicBlock,
    BatchNorm,
    BottleneckBlock,
    Conv,
    ConvNormAct,
    PreActivationBlock,
    StochasticDepth,
    padded_shortcut,
)
from cnnjax.layers.residual import ResidualBlock


def draw(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def randomised(block, x):
    """Return variables that are all random, statistics too."""
    shapes = jax.eval_shape(block.init, jax.random.key(0), x)
    leaves, tree = jax.tree.flatten(shapes)
    return jax.tree.unflatten(tree, [0.1 + draw(leaf.shape, seed) ** 2 for seed, leaf in enumerate(leaves)])


def conv_norm(torch, x, variables, name, stride, padding, groups=1):
    """Do in torch what a `ConvNormAct` without its activation does in evaluation."""
    params, stats = variables["params"][name], variables["batch_stats"][name]["norm"]
    kernel = torch.from_numpy(params["conv"]["kernel"].transpose(3, 2, 0, 1).copy())
    x = torch.nn.functional.conv2d(x, kernel, stride=stride, padding=padding, groups=groups)
    numbers = (stats["mean"], stats["var"], params["norm"]["scale"], params["norm"]["bias"])
    return torch.nn.functional.batch_norm(x, *map(torch.from_numpy, numbers), eps=1e-5)


@pytest.mark.parametrize(
    ("block", "layers"),
    [
        (BasicBlock(6, strides=2), [(2, 1), (1, 1)]),
        (BottleneckBlock(3, strides=2), [(1, 0), (2, 1), (1, 0)]),
        (BottleneckBlock(3, strides=2, stride_first=True), [(2, 0), (1, 1), (1, 0)]),
        (BottleneckBlock(3, strides=2, groups=6, group_width=22), [(1, 0), (2, 1), (1, 0)]),
    ],
    ids=["basic", "bottleneck v1.5", "bottleneck v1", "grouped"],
)
def test_blocks_are_torchs_arithmetic(block, layers):
    torch = pytest.importorskip("torch")
    x = draw((2, 7, 6, 4))
    variables = randomised(block, x)
    y = theirs = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    for number, (stride, padding) in enumerate(layers, 1):
        groups = getattr(block, "groups", 1) if number == 2 else 1
        y = conv_norm(torch, y, variables, f"conv{number}", stride, padding, groups)
        y = torch.relu(y) if number < len(layers) else y
    expected = torch.relu(y + conv_norm(torch, theirs, variables, "shortcut", 2, 0)).numpy().transpose(0, 2, 3, 1)
    found = jax.jit(block.apply)(variables, x)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_block_that_keeps_its_shape_has_no_shortcut_of_its_own():
    x = jax.ShapeDtypeStruct((2, 6, 6, 8), jnp.float32)
    for block in (BasicBlock(8), BottleneckBlock(2), BasicBlock(8, projection=False)):
        assert "shortcut" not in jax.eval_shape(block.init, jax.random.key(0), x)["params"]
    assert "shortcut" in jax.eval_shape(BasicBlock(9).init, jax.random.key(0), x)["params"]
    assert "shortcut" not in jax.eval_shape(BasicBlock(9, projection=False).init, jax.random.key(0), x)["params"]
    with pytest.raises(TypeError, match="Use BasicBlock or BottleneckBlock"):
        jax.eval_shape(ResidualBlock(8).init, jax.random.key(0), x)


def test_zero_gamma_starts_as_the_shortcut():
    x = draw((2, 6, 5, 4))
    norm = functools.partial(nn.BatchNorm, momentum=0.9)
    block = BasicBlock(4, zero_gamma=True, conv=functools.partial(ConvNormAct, norm=norm))
    y, variables = jax.jit(block.init_with_output)(jax.random.key(0), x)
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    assert not variables["params"]["conv2"]["norm"]["scale"].any()
    assert variables["params"]["conv1"]["norm"]["scale"].all()


def test_padded_shortcut_takes_every_second_pixel_and_fills_with_zeros():
    x = draw((2, 5, 6, 3))
    y = np.asarray(padded_shortcut(jnp.asarray(x), 8, 2))
    expected = np.zeros((2, 3, 3, 8), np.float32)
    expected[..., 2:5] = x[:, ::2, ::2]
    np.testing.assert_array_equal(y, expected)
    with pytest.raises(ValueError, match=r"padded_shortcut: expected at least 3 features, got 2\. Use a projection\."):
        padded_shortcut(jnp.asarray(x), 2, 2)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_stochastic_depth_drops_whole_examples_and_keeps_the_mean(dtype):
    x = jnp.ones((4000, 2, 1, 3), dtype)
    layer = StochasticDepth(0.2)
    assert layer.apply({}, x) is x
    assert StochasticDepth(0.0).apply({}, x, train=True) is x
    y = layer.apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert y.dtype == dtype
    numbers = np.asarray(y, np.float32).reshape(4000, 6)
    assert (numbers == numbers[:, :1]).all()
    assert len(np.unique(numbers)) == 2
    assert np.isclose(numbers.max(), 1.25)
    assert abs((numbers[:, 0] == 0).mean() - 0.2) < 5 * (0.2 * 0.8 / 4000) ** 0.5


@pytest.mark.parametrize("rate", [1.0, -0.1])
def test_a_rate_that_leaves_no_branch_is_refused(rate):
    with pytest.raises(ValueError, match=r"^StochasticDepth: expected rate in \[0, 1\), got"):
        StochasticDepth(rate).apply({}, jnp.ones((1, 2, 2, 1)))


@pytest.mark.parametrize(("strides", "features"), [(2, 6), (1, 6), (1, 4)])
def test_pre_activation_block_is_torchs_arithmetic(strides, features):
    torch = pytest.importorskip("torch")
    functional, x = torch.nn.functional, draw((2, 7, 6, 4))
    norm = functools.partial(BatchNorm, use_running_average=True)
    block = PreActivationBlock(features, conv=functools.partial(Conv, use_bias=False), norm=norm, strides=strides)
    variables = randomised(block, x)
    params, stats = variables["params"], variables["batch_stats"]

    def act(x, name):
        numbers = (stats[name]["mean"], stats[name]["var"], params[name]["scale"], params[name]["bias"])
        return torch.relu(functional.batch_norm(x, *map(torch.from_numpy, numbers), eps=1e-5))

    def conv(x, name, stride, padding):
        kernel = torch.from_numpy(params[name]["kernel"].transpose(3, 2, 0, 1).copy())
        return functional.conv2d(x, kernel, stride=stride, padding=padding)

    theirs = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    first = act(theirs, "norm1")
    y = conv(act(conv(first, "conv1", strides, 1), "norm2"), "conv2", 1, 1)
    shortcut = conv(first, "shortcut", strides, 0) if "shortcut" in params else theirs
    assert ("shortcut" in params) == (strides == 2 or features != 4)
    expected = (shortcut + y).numpy().transpose(0, 2, 3, 1)
    found = jax.jit(block.apply)(variables, x)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
