import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.layers import BatchNorm, ConvNormAct
from cnnjax.layers.inception_v3 import (
    AuxiliaryHeadV3,
    FactorizedBlock,
    InceptionA,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)
from tests.pretrained.torchvision_oracle import torchvision

CONV = functools.partial(ConvNormAct, norm=BatchNorm)
# Ours, torchvision's class and its arguments.
BLOCKS = [
    (InceptionA(CONV, pool_features=32), "InceptionA", (192, 32)),
    (InceptionA(CONV), "InceptionA", (288, 64)),
    (InceptionB(CONV), "InceptionB", (288,)),
    (InceptionC(CONV, width=128), "InceptionC", (768, 128)),
    (InceptionC(CONV), "InceptionC", (768, 192)),
    (InceptionD(CONV), "InceptionD", (768,)),
    (InceptionE(CONV), "InceptionE", (1280,)),
]


@pytest.mark.parametrize(
    ("block", "name", "arguments"), BLOCKS, ids=[f"{name}{arguments}" for _, name, arguments in BLOCKS]
)
def test_is_torchvisions_block(block, name, arguments):
    module = torchvision()
    import torch

    with torch.device("meta"):
        theirs = getattr(module.models.inception, name)(*arguments)
        expected = theirs(torch.empty(2, arguments[0], 9, 12)).shape
    images = jax.ShapeDtypeStruct((2, 9, 12, arguments[0]), jnp.float32)
    y, variables = jax.eval_shape(block.init_with_output, jax.random.key(0), images)
    assert y.shape == (expected[0], expected[2], expected[3], expected[1])
    kernels = {path: branch["conv"]["kernel"].shape for path, branch in variables["params"].items()}
    assert kernels == {
        path.removesuffix(".conv.weight"): (*tensor.shape[2:], tensor.shape[1], tensor.shape[0])
        for path, tensor in theirs.named_parameters()
        if path.endswith("conv.weight")
    }
    total = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert total == sum(tensor.numel() for tensor in theirs.parameters())


@pytest.mark.parametrize("counted", [False, True])
def test_average_pools_count_their_padding_or_do_not(counted):
    """An image of ones, averaged by the pool and summed by the projection, is less at the edges or it is not."""
    torch = pytest.importorskip("torch")
    block = InceptionA(ConvNormAct, counted, pool_features=1)
    x = np.ones((1, 4, 5, 2), np.float32)
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.5), jax.eval_shape(block.init, jax.random.key(0), x))
    variables["params"]["branch_pool"]["conv"]["bias"] *= 0
    expected = torch.nn.functional.avg_pool2d(torch.ones(4, 5)[None], 3, 1, 1, count_include_pad=counted)[0]
    np.testing.assert_allclose(block.apply(variables, x)[0, :, :, -1], expected, rtol=1e-6)
    assert (np.asarray(expected) == 1).all() != counted


def test_the_auxiliary_head_reads_17_pixels_at_least():
    head = AuxiliaryHeadV3(7, CONV)
    images = jax.ShapeDtypeStruct((2, 17, 23, 6), jnp.float32)
    logits, variables = jax.eval_shape(head.init_with_output, jax.random.key(0), images)
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    assert variables["params"]["conv1"]["conv"]["kernel"].shape == (5, 5, 128, 768)
    with pytest.raises(ValueError, match="AuxiliaryHeadV3: expected a map of at least 17x17, got 17x16"):
        jax.eval_shape(head.init, jax.random.key(0), jax.ShapeDtypeStruct((2, 17, 16, 6), jnp.float32))


def test_only_blocks_have_branches():
    with pytest.raises(TypeError, match="FactorizedBlock: expected a block with branches"):
        FactorizedBlock().init(jax.random.key(0), jnp.ones((1, 2, 2, 1)))
