"""Keras's nets through files: everything random, written by Keras, read by `load`, equal to what Keras computes."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, pretrained
from tests.pretrained import keras_files

# Importing Keras here would choose its backend for the whole process.
for module in ("keras", "torch"):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed", allow_module_level=True)


def check(folder, name, net, shape, formats, *, gradient=False, include_top=True, other_head=False):
    options = {"input_shape": [*shape[1:3], 3]} if include_top else {"include_top": False}
    want = keras_files.write(folder, net=net, options=options, shape=shape, formats=formats, gradient=gradient)
    model = models.build(name, include_top=include_top)
    loaded = [pretrained.load(model, folder / f"{net}{ending}") for ending in formats]
    first, report = loaded[0]
    for variables, _ in loaded[1:]:  # the other formats hold the same, bit by bit
        jax.tree.map(np.testing.assert_array_equal, variables, first)
    assert report.naming == "keras"
    assert {entry.action for entry in report.entries} == {"loaded"}

    @jax.jit
    def run(variables, images):
        return model.apply(variables, images, train=False, mutable=["intermediates"])

    output, state = run(first, want["images"])
    sown = state["intermediates"]
    for stage in [key for key in want if key.startswith("stage")]:
        close(sown[stage][0], want[stage], stage)
    close(output, want["output"], "output")
    if gradient:
        got = jax.jit(jax.grad(functools.partial(weighted, model), argnums=1))(first, want["images"], want["weight"])
        close(got, want["gradient"], "gradient")


def weighted(model, variables, images, weight):
    return jnp.sum(model.apply(variables, images, train=False) * weight)


def close(got, want, what):
    assert got.shape == want.shape, what
    scale = np.abs(want).max()
    assert 1e-6 < scale < np.inf, what
    error = np.abs(np.array(got) - want).max() / scale
    assert error < 1e-4, f"{what}: {error:.1e}"


def test_vgg16_without_top_at_a_small_size(tmp_path):
    check(tmp_path, "vgg16", "VGG16", (2, 44, 39, 3), [".weights.h5"], include_top=False)


# Sizes: never square, one even and one odd, none that leaves 1 when divided by 32, where SAME happens to be right.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "net", "shape", "formats", "gradient"),
    [
        ("vgg16", "VGG16", (1, 240, 251, 3), [".weights.h5"], True),
        ("vgg19", "VGG19", (1, 251, 240, 3), [".h5"], False),
        ("resnet50_v1", "ResNet50", (2, 116, 75, 3), [".keras", ".h5", ".weights.h5"], True),
        ("resnet101_v1", "ResNet101", (1, 75, 116, 3), [".weights.h5"], False),
        ("resnet152_v1", "ResNet152", (1, 95, 78, 3), [".h5"], False),
        ("inception_v3", "InceptionV3", (1, 140, 111, 3), [".keras"], True),
    ],
)
def test_the_whole_net(tmp_path, name, net, shape, formats, gradient):
    check(tmp_path, name, net, shape, formats, gradient=gradient)
