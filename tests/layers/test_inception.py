import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import errors
from jax import lax

from cnnjax.layers import BatchNorm, ConvNormAct
from cnnjax.layers.inception import AuxiliaryHead, InceptionBlock, NaiveInceptionBlock


def randomised(variables, seed=0):
    """Return variables of the same shapes, each value drawn at random, positive and negative."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 4, variables)


def built(block, shape):
    """Return random variables for a block and images of a shape."""
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    return randomised(jax.eval_shape(block.init, jax.random.key(0), x)), x


def conv(x, params):
    """Convolve, add the bias, cut below zero, in XLA's own words."""
    kernel, bias = params["conv"]["kernel"], params["conv"]["bias"]
    y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return np.maximum(np.asarray(y + bias.reshape(1, 1, 1, -1)), 0)


def max_pool(x):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2)).max((-2, -1))


def test_the_naive_block_is_figure_2a():
    block = NaiveInceptionBlock((2, 3, 4))
    variables, x = built(block, (2, 6, 5, 3))
    params = variables["params"]
    found = block.apply(variables, x)
    expected = [conv(x, params["branch1"]), conv(x, params["branch3"]), conv(x, params["branch5"]), max_pool(x)]
    np.testing.assert_allclose(found, np.concatenate(expected, -1), rtol=1e-4, atol=1e-5)
    assert [params[f"branch{k}"]["conv"]["kernel"].shape for k in (1, 3, 5)] == [
        (1, 1, 3, 2),
        (3, 3, 3, 3),
        (5, 5, 3, 4),
    ]


@pytest.mark.parametrize("kernels", [(5,), (3,), (3, 3)])
def test_the_block_with_reductions_is_figure_2b(kernels):
    block = InceptionBlock((2, 3, 4, 1, 5, 2), kernels)
    variables, x = built(block, (2, 5, 6, 3))
    params = variables["params"]
    branch5 = conv(conv(x, params["branch5_reduce"]), params["branch5"])
    if len(kernels) == 2:
        branch5 = conv(branch5, params["branch5_2"])
    expected = [
        conv(x, params["branch1"]),
        conv(conv(x, params["branch3_reduce"]), params["branch3"]),
        branch5,
        conv(max_pool(x), params["branch_pool"]),
    ]
    np.testing.assert_allclose(block.apply(variables, x), np.concatenate(expected, -1), rtol=1e-4, atol=1e-5)
    assert params["branch5"]["conv"]["kernel"].shape == (kernels[0], kernels[0], 1, 5)
    assert len(params) == 5 + len(kernels)


def test_the_auxiliary_head_is_the_papers():
    head = AuxiliaryHead(7)
    variables, x = built(head, (2, 14, 14, 6))
    params = variables["params"]
    windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), (1, 2))[:, ::3, ::3]
    pooled = windows.mean((-2, -1), dtype=np.float64).astype(np.float32)
    assert pooled.shape == (2, 4, 4, 6)
    hidden = conv(pooled, params["conv"]).reshape(2, -1)
    hidden = np.maximum(hidden @ params["dense1"]["kernel"] + params["dense1"]["bias"], 0)
    expected = hidden @ params["logits"]["kernel"] + params["logits"]["bias"]
    found = head.apply(variables, x)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert params["dense1"]["kernel"].shape == (2048, 1024)


@pytest.mark.parametrize("overlapping", [True, False])
def test_the_auxiliary_head_has_the_same_parameters_for_every_map(overlapping):
    head = AuxiliaryHead(7, overlapping=overlapping)

    def shapes(size):
        images = jax.ShapeDtypeStruct((1, *size, 6), jnp.float32)
        return jax.tree.map(jnp.shape, jax.eval_shape(head.init, jax.random.key(0), images))

    assert [shapes(size) for size in ((1, 1), (2, 5), (4, 4), (13, 30))] == [shapes((14, 14))] * 4


def test_dropout_needs_a_key_only_for_training():
    head = AuxiliaryHead(3, dropout=0.5)
    variables, x = built(head, (2, 4, 4, 2))
    still = head.apply(variables, x)
    assert (still == head.apply(variables, x, train=False)).all()
    with pytest.raises(errors.InvalidRngError, match="dropout"):
        head.apply(variables, x, train=True)
    one, other = (head.apply(variables, x, train=True, rngs={"dropout": jax.random.key(k)}) for k in (1, 2))
    assert (one != other).all()


def test_options_of_convolutions_reach_every_branch():
    block = InceptionBlock((2, 3, 4, 1, 5, 2), conv=functools.partial(ConvNormAct, norm=BatchNorm))
    variables = jax.eval_shape(block.init, jax.random.key(0), jnp.ones((1, 4, 4, 3)))
    assert all(set(branch) == {"conv", "norm"} for branch in variables["params"].values())
    assert set(variables["batch_stats"]) == set(variables["params"])
    assert all(set(branch["conv"]) == {"kernel"} for branch in variables["params"].values())
