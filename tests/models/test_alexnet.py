import jax
import jax.numpy as jnp
import pytest

import cnnjax
from cnnjax import models
from cnnjax.errors import UsageError

MODEL = models.build("alexnet")


def shapes(size, names):
    x = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    variables = jax.eval_shape(MODEL.init, jax.random.key(0), x)
    found = jax.eval_shape(lambda v, x: cnnjax.features(MODEL, v, x, names), variables, x)
    return [found[name].shape[1:] for name in names]


def test_layers_have_the_published_sizes():
    names = ["conv1", "stage1", "conv2", "stage2", "conv3", "conv4", "conv5", "stage3"]
    sizes = [55, 27, 27, 13, 13, 13, 13, 6]
    widths = [64, 64, 192, 192, 384, 256, 256, 256]
    assert shapes((224, 224), names) == [(s, s, w) for s, w in zip(sizes, widths, strict=True)]


def test_the_smallest_image():
    assert shapes((63, 63), ["stage3"]) == [(1, 1, 256)]
    with pytest.raises(
        UsageError, match="alexnet: expected images of at least 63x63 pixels, got 62x90, of which pool5"
    ):
        shapes((62, 90), ["stage3"])
