import functools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from cnnjax.layers import InvertedResidual, SqueezeExcitation, StochasticDepth

X = jax.ShapeDtypeStruct((2, 9, 8, 4), jnp.float32)


def parts(block):
    return set(jax.eval_shape(block.init, jax.random.key(0), X)["params"])


def test_what_is_not_wider_inside_is_not_widened():
    assert parts(InvertedResidual(4, 8)) == {"expand", "depthwise", "project"}
    assert parts(InvertedResidual(4, 4)) == {"depthwise", "project"}
    assert parts(InvertedResidual(4, 4, gate=functools.partial(SqueezeExcitation, 2))) == {
        "depthwise",
        "gate",
        "project",
    }


@pytest.mark.parametrize(("features", "strides", "added"), [(4, 1, True), (5, 1, False), (4, 2, False)])
def test_x_is_added_where_shapes_agree(features, strides, added):
    block = InvertedResidual(features, 8, strides=strides, drop_rate=0.5)
    variables = jax.eval_shape(block.init, jax.random.key(0), X)
    seen = []

    def record(call, args, kwargs, context):
        seen.append(isinstance(context.module, StochasticDepth))
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        y = jax.eval_shape(block.apply, variables, X)
    assert y.shape == (2, -(-9 // strides), 8 // strides, features)
    assert any(seen) == added
