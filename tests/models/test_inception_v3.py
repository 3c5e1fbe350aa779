import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from cnnjax import models
from cnnjax.errors import UsageError
from cnnjax.models.inception_v3 import InceptionV3
from tests.models.torchvision_shapes import module_shapes


def images(*size, batch=2):
    return jax.ShapeDtypeStruct((batch, *size, 3), jnp.float32)


@functools.cache
def initialised(model):
    """Return the shapes of a model's variables, which no size of image changes."""
    return jax.eval_shape(model.init, jax.random.key(0), images(75, 75))


def feature_shapes(model, x, names):
    found = jax.eval_shape(lambda v, x: cnnjax.features(model, v, x, names), initialised(model), x)
    return {name: value.shape for name, value in found.items()}


def apply(model, variables, x, train):
    rngs = {"dropout": jax.random.key(1)}
    return model.apply(variables, x, train=train, rngs=rngs, mutable=["batch_stats", "intermediates"])


def ours(path):
    """Return our path of one of torchvision's modules that makes a map, or None if it has no place of its own."""
    if found := re.fullmatch(r"Conv2d_(\d\w)_\dx\d", path):
        return f"conv_{found[1]}"
    if found := re.fullmatch(r"maxpool(\d)", path):
        return f"pool{found[1]}"
    if found := re.fullmatch(r"Mixed_(\d\w)(\.branch\w+)?", path):
        return f"mixed_{found[1]}" + (found[2] or "").replace(".", "/")
    if found := re.fullmatch(r"AuxLogits\.(conv\d)", path):
        return f"aux1/{found[1]}"
    return None


# Both sizes odd, then even; at the second the auxiliary head has just enough to read.
@pytest.mark.parametrize("size", [(97, 131), (299, 306)])
def test_every_map_has_the_shape_of_torchvisions(size):
    with_head = size[0] == 299
    modules = module_shapes("inception_v3", size, train=with_head)
    expected = {ours(path): shape for path, shape in modules.items() if ours(path)}
    convolutions = 94 + 2 * with_head
    assert len(expected) == convolutions + 2 + 11
    assert feature_shapes(models.build("inception_v3_torchvision"), images(*size), list(expected)) == expected


def test_stages_are_the_papers():
    """Szegedy et al., 2015, https://arxiv.org/abs/1512.00567, Table 1: input sizes, one row later, are output sizes."""
    assert feature_shapes(models.build("inception_v3"), images(299, 299), [f"stage{n}" for n in range(1, 6)]) == {
        "stage1": (2, 147, 147, 64),
        "stage2": (2, 71, 71, 192),
        "stage3": (2, 35, 35, 288),
        "stage4": (2, 17, 17, 768),
        "stage5": (2, 8, 8, 2048),
    }


@pytest.mark.parametrize("name", ["inception_v3", "inception_v3_torchvision"])
def test_the_smallest_image(name):
    model = models.build(name)
    logits = jax.eval_shape(model.apply, initialised(model), images(75, 75))
    assert logits.shape == (2, 1000)
    with pytest.raises(UsageError, match=r"inception_v3: expected images of at least 75x75 .*got 74x90.*mixed_7a"):
        jax.eval_shape(model.apply, initialised(model), images(74, 90))


def test_the_smallest_image_that_trains_the_auxiliary_head():
    model = models.build("inception_v3_torchvision")
    logits, state = jax.eval_shape(lambda v, x: apply(model, v, x, True), initialised(model), images(299, 299))
    (aux_logits,) = state["intermediates"]["aux_logits1"]
    assert logits.shape == aux_logits.shape == (2, 1000)
    assert logits.dtype == aux_logits.dtype == jnp.float32
    with pytest.raises(
        UsageError, match=r"at least 299x299 pixels, got 299x298.*aux1 .which aux_logits=False leaves out"
    ):
        jax.eval_shape(lambda v, x: apply(model, v, x, True), initialised(model), images(299, 298))
    without = models.build("inception_v3_torchvision", aux_logits=False)
    assert jax.eval_shape(lambda v, x: apply(without, v, x, True)[0], initialised(without), images(75, 75)).shape


def test_every_mode_and_size_initialises_the_same_parameters():
    model = models.build("inception_v3_torchvision")
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    training = jax.eval_shape(lambda x: model.init(rngs, x, train=True), images(299, 299))
    assert jax.tree.map(jnp.shape, training) == jax.tree.map(jnp.shape, initialised(model))
    assert "aux1" in training["params"]
    for absent in ({"aux_logits": False}, {"include_top": False}):
        assert "aux1" not in initialised(models.build("inception_v3_torchvision", **absent))["params"]
    assert "aux1" not in initialised(models.build("inception_v3"))["params"]


def test_in_evaluation_the_auxiliary_head_costs_nothing_and_no_key_is_needed():
    model = models.build("inception_v3_torchvision")
    program = str(jax.make_jaxpr(lambda v, x: model.apply(v, x))(initialised(model), images(299, 299)))
    assert len(re.findall(r"\bdot_general\[", program)) == 1
    # Asked for, it is there; an image that it cannot read has it not.
    shapes = feature_shapes(model, images(299, 299), ["aux_logits1"])
    assert shapes == {"aux_logits1": (2, 1000)}
    with pytest.raises(UsageError, match="unknown feature 'aux_logits1'"):
        feature_shapes(model, images(298, 298), ["aux_logits1"])


def test_keras_has_no_scales_and_torchvision_has():
    for name, leaves in (("inception_v3", {"bias"}), ("inception_v3_torchvision", {"bias", "scale"})):
        params = initialised(models.build(name))["params"]
        norms = [leaf for path, leaf in walk(params) if path == "norm"]
        assert len(norms) == (94 if name == "inception_v3" else 96)
        assert all(set(norm) == leaves for norm in norms)


def walk(tree):
    for name, inner in tree.items():
        if isinstance(inner, dict):
            yield name, inner
            yield from walk(inner)


def test_normalisation_is_each_publishers():
    """Keras: momentum 0.99, eps 1e-3; torchvision: momentum 0.1, which is 0.9 here, eps 1e-3."""
    for name, momentum in (("inception_v3", 0.99), ("inception_v3_torchvision", 0.9)):
        norm = models.build(name).conv.keywords["norm"](use_running_average=True)
        assert (norm.momentum, norm.epsilon) == (momentum, 1e-3)


def test_initial_values():
    """Keras: uniform in +-sqrt(6 / (fan_in + fan_out)); torchvision: normal, 0.1, and 0.01 and 0.001 in its head."""
    x = jnp.ones((1, 1, 7, 128))
    layer = models.build("inception_v3").conv(192, (1, 7)).init(jax.random.key(0), x)["params"]["conv"]["kernel"]
    most = (6 / (7 * (128 + 192))) ** 0.5
    assert 0.99 * most < float(jnp.abs(layer).max()) <= most
    assert float(jnp.std(layer)) == pytest.approx(most / 3**0.5, rel=0.02)

    model = models.build("inception_v3_torchvision")
    layer = model.conv(192, (1, 7)).init(jax.random.key(0), x)["params"]["conv"]["kernel"]
    head = jax.jit(model.aux_head(20, conv=model.conv).init)(jax.random.key(0), jnp.ones((1, 17, 17, 8)))["params"]
    logits = model.head(20).init(jax.random.key(0), jnp.ones((1, 2048)))["params"]["logits"]
    for kernel, std in (
        (layer, 0.1),
        (head["conv0"]["conv"]["kernel"], 0.1),
        (head["conv1"]["conv"]["kernel"], 0.01),
        (head["logits"]["kernel"], 0.001),
        (logits["kernel"], 0.1),
    ):
        assert float(jnp.std(kernel)) == pytest.approx(std, rel=0.05)
        # torchvision's cut is at 2, not at two standard deviations: some values lie beyond these.
        assert float(jnp.abs(kernel).max()) > 2.2 * std
    assert 0.5 * 2048**-0.5 < np.abs(logits["bias"]).max() <= 2048**-0.5


def test_it_is_one_class():
    assert {type(models.build(name)) for name in ("inception_v3", "inception_v3_torchvision")} == {InceptionV3}
