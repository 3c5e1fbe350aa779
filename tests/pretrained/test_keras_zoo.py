"""Keras's nets through files: everything random, written by Keras, read by `load`, equal to what Keras computes."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, pretrained
from cnnjax.pretrained.naming import translate
from cnnjax.pretrained.readers.keras_names import counted, is_automatic, snake_case
from cnnjax.pretrained.rules import namings_for
from tests.models.variants import repeats
from tests.pretrained import keras_files

# Importing Keras here would choose its backend for the whole process.
pytestmark = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="Keras runs on torch here")

# Compiling is most of the time here, and the arithmetic is the same.
QUICKLY = {"xla_backend_optimization_level": 0}


def check(folder, name, net, shape, formats, *, include_top=True):
    """Compare outputs and stages, and what the formats hold."""
    options = {"input_shape": [*shape[1:3], 3]} if include_top else {"include_top": False}
    spec = {"net": net, "options": options, "shape": shape, "formats": formats}
    want = keras_files.write(folder, **spec, dtype="float32", gradient=False)
    model = models.build(name, include_top=include_top)
    check_counts(model, want["layers"])
    variables = load_all(model, folder, net, formats)
    compare(model, variables, want, tolerance=1e-4)


def check_modern(folder, name, net, shape, formats, *, own=None, tolerance=1e-4, **options):
    """Compare logits, stages and the input's gradient in float64 with a net of Keras that scales its images itself."""
    pixels = "V3" in net or "Efficient" in net or "ConvNeXt" in net
    top = {"input_shape": [*shape[1:3], 3], **options}
    spec = {"net": net, "options": top, "shape": shape, "formats": formats, "pixels": pixels}
    want = keras_files.write(folder, **spec, dtype="float64", gradient=True)
    model = models.build(name, **(own or {}))
    variables = load_all(model, folder, net, formats)
    with jax.enable_x64(True):
        model = model.copy(dtype=jnp.float64)
        exact = jax.tree.map(lambda leaf: np.array(leaf, np.float64), variables)
        compare(model, exact, want, tolerance=tolerance)
        got = jax.jit(jax.grad(functools.partial(weighted, model), argnums=1), compiler_options=QUICKLY)(
            exact, want["images"], want["weight"]
        )
        close(got, want["gradient"], "gradient", tolerance)


def check_counts(model, layers):
    """See to it that the layers of a file without names, known by their place alone, go where their names say."""
    rules = next(naming for naming in namings_for(model) if naming.name == "keras").rules_for(model)
    used = {}
    for kind, name in (layer.split() for layer in layers):
        place = counted(snake_case(kind), used)
        if not is_automatic(name):
            assert destination(rules, place) == destination(rules, name), (place, name)


def destination(rules, name):
    return next(path for rule in rules if (path := translate(rule.source, rule.target, name)))


def load_all(model, folder, net, formats):
    """Return the variables of a file; the other formats hold the same, bit by bit."""
    first, *others = [pretrained.load(model, folder / f"{net}{ending}") for ending in formats]
    for _, report in (first, *others):
        assert report.naming == "keras"
        assert {e.action for e in report.entries if e.source != "normalization/count"} == {"loaded"}
    for variables, _ in others:
        jax.tree.map(np.testing.assert_array_equal, variables, first[0])
    return first[0]


def compare(model, variables, want, tolerance):
    def run(variables, images):
        return model.apply(variables, images, train=False, mutable=["intermediates"])

    output, state = jax.jit(run, compiler_options=QUICKLY)(variables, want["images"])
    stages = [key for key in want if key.startswith("stage")]
    assert len(stages) >= 4
    for stage in stages:
        close(state["intermediates"][stage][0], want[stage], stage, tolerance)
    close(output, want["output"], "output", tolerance)


def weighted(model, variables, images, weight):
    return jnp.sum(model.apply(variables, images, train=False) * weight)


def close(got, want, what, tolerance):
    assert got.shape == want.shape, what
    scale = np.abs(want).max()
    assert 1e-6 < scale < np.inf, what
    error = np.abs(np.array(got) - want).max() / scale
    assert error < tolerance, f"{what}: {error:.1e}"


@pytest.mark.slow  # most of it is the time that Keras and torch take to start
def test_vgg16_without_top_at_a_small_size(tmp_path):
    check(tmp_path, "vgg16", "VGG16", (2, 44, 39, 3), [".weights.h5"], include_top=False)


# Sizes: never square, one even and one odd, none that leaves 1 when divided by 32, where SAME happens to be right.
# VGG's dense layers need a last map of 7 x 7.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "net", "shape", "formats"),
    [
        ("vgg16", "VGG16", (1, 240, 251, 3), [".weights.h5"]),
        ("vgg19", "VGG19", (1, 251, 240, 3), [".h5"]),
        ("resnet50_v1", "ResNet50", (2, 116, 75, 3), [".keras", ".h5", ".weights.h5"]),
        ("resnet101_v1", "ResNet101", (1, 75, 116, 3), [".weights.h5"]),
        ("resnet152_v1", "ResNet152", (1, 95, 78, 3), [".h5"]),
        ("inception_v3", "InceptionV3", (1, 140, 111, 3), [".keras"]),
    ],
)
def test_the_whole_net(tmp_path, name, net, shape, formats):
    check(tmp_path, name, net, shape, formats)


# In float64, where no activation is so near to zero that two ways of adding put it on different sides; there an epsilon
# that is a thousandth off shows, too. The files hold float64.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "net", "shape", "ending"),
    [
        ("vgg16", "VGG16", (1, 70, 47, 3), ".keras"),
        ("resnet50_v1", "ResNet50", (1, 76, 59, 3), ".h5"),
        ("inception_v3", "InceptionV3", (1, 110, 87, 3), ".weights.h5"),
    ],
)
def test_the_gradient_at_the_input(tmp_path, name, net, shape, ending):
    spec = {"net": net, "options": {"include_top": False}, "shape": shape, "formats": [ending]}
    want = keras_files.write(tmp_path, **spec, dtype="float64", gradient=True)
    variables = load_all(models.build(name, include_top=False), tmp_path, net, [ending])
    with jax.enable_x64(True):
        model = models.build(name, include_top=False, dtype=jnp.float64)
        exact = jax.tree.map(lambda leaf: np.array(leaf, np.float64), variables)
        compare(model, exact, want, tolerance=1e-10)
        got = jax.jit(jax.grad(functools.partial(weighted, model), argnums=1))(exact, want["images"], want["weight"])
        close(got, want["gradient"], "gradient", 1e-8)


UNSCALED = {"input_scale": None}  # what Keras's net has only with ImageNet's weights
ALL = [".keras", ".h5", ".weights.h5"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "net", "shape", "formats", "own"),
    [
        pytest.param(*row, marks=repeats(row[0]))
        for row in (
            ("mobilenet_v2_keras", "MobileNetV2", (2, 38, 45, 3), ALL, {}),
            ("mobilenet_v3_small_keras", "MobileNetV3Small", (2, 38, 45, 3), ALL, {}),
            ("mobilenet_v3_large_keras", "MobileNetV3Large", (2, 45, 38, 3), [".h5"], {}),
            ("densenet121_keras", "DenseNet121", (2, 38, 45, 3), ALL, {}),
            ("densenet169_keras", "DenseNet169", (2, 45, 38, 3), [".weights.h5"], {}),
            ("densenet201_keras", "DenseNet201", (2, 38, 45, 3), [".h5"], {}),
            ("efficientnet_b0_keras", "EfficientNetB0", (2, 38, 45, 3), ALL, UNSCALED),
            ("efficientnet_b1_keras", "EfficientNetB1", (2, 45, 38, 3), [".h5"], UNSCALED),
            ("efficientnet_b5_keras", "EfficientNetB5", (2, 45, 38, 3), [".weights.h5"], UNSCALED),
            ("convnext_tiny_keras", "ConvNeXtTiny", (2, 38, 45, 3), ALL, {}),
            ("convnext_small_keras", "ConvNeXtSmall", (2, 45, 38, 3), [".weights.h5"], {}),
            ("convnext_base_keras", "ConvNeXtBase", (2, 38, 45, 3), [".h5"], {}),
        )
    ],
)
def test_the_nets_since_2016(tmp_path, name, net, shape, formats, own):
    check_modern(tmp_path, name, net, shape, formats, own=own)


@pytest.mark.slow
def test_a_narrow_mobilenet_v2(tmp_path):
    shape = (2, 45, 38, 3)
    check_modern(tmp_path, "mobilenet_v2_keras", "MobileNetV2", shape, [".keras"], own={"width": 0.35}, alpha=0.35)
