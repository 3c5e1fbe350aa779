import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cnnjax
from cnnjax import models
from cnnjax.errors import UsageError
from cnnjax.models.googlenet import GoogLeNet
from tests.models.torchvision_shapes import module_shapes
from tests.pretrained.torchvision_oracle import torchvision

NAMES = ["googlenet", "googlenet_torchvision", "googlenet_cifar"]


def images(*size, batch=2):
    return jax.ShapeDtypeStruct((batch, *size, 3), jnp.float32)


@functools.cache
def initialised(model):
    """Return the shapes of a model's variables, which no size of image changes."""
    return jax.eval_shape(model.init, jax.random.key(0), images(64, 64))


def feature_shapes(model, x, names):
    found = jax.eval_shape(lambda v, x: cnnjax.features(model, v, x, names), initialised(model), x)
    return {name: value.shape for name, value in found.items()}


# Szegedy et al., 2014, https://arxiv.org/abs/1409.4842, Table 1: our module, output size, depth, #1x1, #3x3 reduce,
# #3x3, #5x5 reduce, #5x5, pool proj, parameters in K, operations in M.
TABLE_1 = [
    ("conv1", (112, 112, 64), 1, (), 2.7, 34),
    ("pool1", (56, 56, 64), 0, (), None, None),
    ("conv2", (56, 56, 192), 2, (64, 192), 112, 360),
    ("pool2", (28, 28, 192), 0, (), None, None),
    ("inception_3a", (28, 28, 256), 2, (64, 96, 128, 16, 32, 32), 159, 128),
    ("inception_3b", (28, 28, 480), 2, (128, 128, 192, 32, 96, 64), 380, 304),
    ("pool3", (14, 14, 480), 0, (), None, None),
    ("inception_4a", (14, 14, 512), 2, (192, 96, 208, 16, 48, 64), 364, 73),
    ("inception_4b", (14, 14, 512), 2, (160, 112, 224, 24, 64, 64), 437, 88),
    ("inception_4c", (14, 14, 512), 2, (128, 128, 256, 24, 64, 64), 463, 100),
    ("inception_4d", (14, 14, 528), 2, (112, 144, 288, 32, 64, 64), 580, 119),
    ("inception_4e", (14, 14, 832), 2, (256, 160, 320, 32, 128, 128), 840, 170),
    ("pool4", (7, 7, 832), 0, (), None, None),
    ("inception_5a", (7, 7, 832), 2, (256, 160, 320, 32, 128, 128), 1072, 54),
    ("inception_5b", (7, 7, 1024), 2, (384, 192, 384, 48, 128, 128), 1388, 71),
    ("head", (1000,), 1, (), 1000, 1),
]
# Where the table's own widths give other numbers than it prints. The first row is counted as if 7x7 were a 7x1 and a
# 1x7 kernel (2 * 7 * 3 * 64 weights), and 5a's operations fit its parameters, neither its widths. Else the operations
# fit the widths in every row, so that it is the printed parameters that are off, by up to 7 %.
PARAMETERS_OFF = {"conv1": 9.2, "inception_4a": 366.75, "inception_4c": 497.5, "inception_4d": 590.5}
PARAMETERS_OFF |= {"inception_4e": 847.0, "inception_5a": 1018.0, "inception_5b": 1409.0}
OPERATIONS_OFF = {"conv1": 118.0, "inception_5a": 51.1}


def kernels(params, row):
    """Return the shapes of a row's kernels by the path within it; conv2 is two convolutions."""
    rows = ["conv2_reduce", "conv2"] if row == "conv2" else [row]
    flat, _ = jax.tree_util.tree_flatten_with_path({name: params[name] for name in rows})
    return {"/".join(key.key for key in path[:-1]): leaf.shape for path, leaf in flat if path[-1].key == "kernel"}


@pytest.fixture(scope="module")
def paper():
    model, x = models.build("googlenet", aux_logits=False), images(224, 224)
    params = initialised(model)["params"]
    return params, feature_shapes(model, x, [row[0] for row in TABLE_1])


@pytest.mark.parametrize(("row", "output", "depth", "widths", "thousands", "millions"), TABLE_1)
def test_every_row_of_the_papers_table_1(paper, row, output, depth, widths, thousands, millions):
    params, shapes = paper
    assert shapes[row] == (2, *output)
    if not depth:
        assert row not in params
        return
    found = kernels(params, row)
    if row.startswith("inception"):
        names = ["branch1", "branch3_reduce", "branch3", "branch5_reduce", "branch5", "branch_pool"]
        sizes = dict(zip(names, (1, 1, 3, 1, 5, 1)))
        assert {path.split("/")[1]: shape[::3] for path, shape in found.items()} == {
            name: (sizes[name], width) for name, width in zip(names, widths)
        }
        assert sum(widths[place] for place in (0, 2, 4, 5)) == output[-1]
    elif row == "conv2":
        assert {path: shape[::3] for path, shape in found.items()} == {
            "conv2_reduce/conv": (1, widths[0]),
            "conv2/conv": (3, widths[1]),
        }
    weights = sum(int(np.prod(shape)) for shape in found.values())
    positions = output[0] * output[1] if len(output) == 3 else 1
    # K is 1024 here and M a million: the only reading that fits conv2, 3a, 3b, 4b and the logits.
    assert weights / 1024 == pytest.approx(PARAMETERS_OFF.get(row, thousands), abs=0.05 if row in PARAMETERS_OFF else 1)
    macs = weights * positions / 1e6
    assert macs == pytest.approx(OPERATIONS_OFF.get(row, millions), abs=0.05 if row in OPERATIONS_OFF else 1)


def test_every_convolution_of_the_papers_net_has_a_bias_and_none_is_normalised(paper):
    params, _ = paper
    assert {tuple(sorted(leaf)) for leaf in jax.tree.leaves(params, is_leaf=lambda t: "kernel" in t)} == {
        ("bias", "kernel")
    }
    assert set(initialised(models.build("googlenet"))) == {"params"}


def ours(path):
    """Return our path of one of torchvision's modules that makes a map, or None if it has no place of its own."""
    renamed = {"conv1": "conv1", "conv2": "conv2_reduce", "conv3": "conv2", "maxpool": "pool"}
    branches = {"1": "branch1", "2.0": "branch3_reduce", "2.1": "branch3"}
    branches |= {"3.0": "branch5_reduce", "3.1": "branch5", "4.0": "pool", "4.1": "branch_pool"}
    if path in renamed:
        return renamed[path]
    if found := re.fullmatch(r"maxpool(\d)", path):
        return f"pool{found[1]}"
    if found := re.fullmatch(r"inception(\d\w)(?:\.branch([\d.]+))?", path):
        return f"inception_{found[1]}" + (f"/{branches[found[2]]}" if found[2] in branches else "")
    return None


@pytest.mark.parametrize("size", [(97, 130), (15, 36)])
def test_every_map_has_the_shape_of_torchvisions(size):
    expected = {ours(path): shape for path, shape in module_shapes("googlenet", size).items() if ours(path)}
    assert len(expected) == 3 + 4 + 9 * 8
    model = models.build("googlenet_torchvision", aux_logits=False)
    assert feature_shapes(model, images(*size), list(expected)) == expected


@pytest.mark.parametrize(
    ("name", "smallest", "layer"), [("googlenet", 31, "pool4"), ("googlenet_torchvision", 15, "pool3")]
)
def test_the_smallest_image(name, smallest, layer):
    model = models.build(name)
    x = images(smallest, smallest)
    logits = jax.eval_shape(lambda v, x: apply(model, v, x, True)[0], initialised(model), x)
    assert logits.shape == (2, 1000)
    message = rf"googlenet: expected images of at least {smallest}x{smallest} pixels, got 40x{smallest - 1}.*{layer}"
    with pytest.raises(UsageError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), images(40, smallest - 1))


def test_the_form_for_small_images_takes_any():
    model = models.build("googlenet_cifar")
    assert feature_shapes(model, images(32, 32), ["stage1", "stage2", "stage3"]) == {
        "stage1": (2, 32, 32, 480),
        "stage2": (2, 16, 16, 832),
        "stage3": (2, 8, 8, 1024),
    }
    assert feature_shapes(model, images(1, 1), ["stage3"]) == {"stage3": (2, 1, 1, 1024)}


def apply(model, variables, x, train):
    rngs = {"dropout": jax.random.key(1)}
    return model.apply(variables, x, train=train, rngs=rngs, mutable=["batch_stats", "intermediates"])


@pytest.mark.parametrize("name", NAMES[:2])
def test_auxiliary_logits_are_sown_and_the_result_is_the_logits_in_every_mode(name):
    model, x = models.build(name), images(64, 64)
    variables = initialised(model)
    for train in (False, True):
        logits, state = jax.eval_shape(lambda v, x, t=train: apply(model, v, x, t), variables, x)
        assert (logits.shape, logits.dtype) == ((2, 1000), jnp.float32)
        sown = {key: value for key, value in state["intermediates"].items() if key.startswith("aux_logits")}
        assert set(sown) == {"aux_logits1", "aux_logits2"}
        assert {(v.shape, v.dtype) for (v,) in sown.values()} == {((2, 1000), jnp.dtype("float32"))}


@pytest.mark.parametrize("name", NAMES[:2])
def test_every_mode_initialises_the_same_parameters(name):
    model, x = models.build(name), images(64, 64)
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    evaluating, training = (jax.eval_shape(lambda x, t=t: model.init(rngs, x, train=t), x) for t in (False, True))
    assert jax.tree.map(jnp.shape, evaluating) == jax.tree.map(jnp.shape, training)
    assert {"aux1", "aux2"} < set(evaluating["params"])
    for absent in (models.build(name, aux_logits=False), models.build(name, include_top=False)):
        assert not {"aux1", "aux2"} & set(initialised(absent)["params"])


@pytest.mark.parametrize("name", NAMES[:2])
def test_in_evaluation_the_auxiliary_heads_cost_nothing_and_no_key_is_needed(name):
    model, x = models.build(name), images(64, 64)
    variables = initialised(model)
    program = str(jax.make_jaxpr(lambda v, x: model.apply(v, x))(variables, x))
    assert len(re.findall(r"\bdot_general\[", program)) == 1
    training = str(jax.make_jaxpr(lambda v, x: apply(model, v, x, True))(variables, x))
    assert len(re.findall(r"\bdot_general\[", training)) == 5


def test_what_follows_a_convolution():
    """Biases and no batch norm in the paper's, batch norm and no biases in torchvision's, both in the CIFAR form."""
    expected = {
        "googlenet": {"bias", "kernel"},
        "googlenet_torchvision": {"kernel"},
        "googlenet_cifar": {"bias", "kernel"},
    }
    for name, leaves in expected.items():
        variables = initialised(models.build(name))
        assert set(variables["params"]["inception_4b"]["branch3"]["conv"]) == leaves
        assert ("norm" in variables["params"]["conv1"]) == (name != "googlenet") == ("batch_stats" in variables)


# Kernels' standard deviation and greatest value, biases: of Caffe's "xavier" and of PyTorch's default by definition.
FAN_IN = 3 * 3 * 64
INITIAL = [
    ("googlenet", FAN_IN**-0.5, (3 / FAN_IN) ** 0.5, 0.2),
    ("googlenet_cifar", (3 * FAN_IN) ** -0.5, FAN_IN**-0.5, 0.0),
]


@pytest.mark.parametrize(("name", "std", "most", "bias"), INITIAL)
def test_initial_values(name, std, most, bias):
    layer = models.build(name).conv(64, 3)
    params = layer.init(jax.random.key(0), jnp.ones((1, 3, 3, 64)))["params"]["conv"]
    assert float(jnp.std(params["kernel"])) == pytest.approx(std, rel=0.02)
    assert 0.99 * most < float(jnp.abs(params["kernel"]).max()) <= most
    np.testing.assert_allclose(params["bias"], bias)


def test_initial_values_of_the_papers_classifiers():
    model = models.build("googlenet")
    head = jax.jit(model.aux_head(50, conv=model.conv).init)(jax.random.key(0), jnp.ones((1, 4, 4, 8)))["params"]
    assert {key: float(layer["bias"].mean()) for key, layer in head.items() if "bias" in layer} == {
        "dense1": pytest.approx(0.2),
        "logits": 0.0,
    }
    assert float(jnp.std(head["dense1"]["kernel"])) == pytest.approx(2048**-0.5, rel=0.02)


def test_initial_values_are_torchvisions():
    module = torchvision()
    import torch

    torch.manual_seed(0)  # drawn anew each time, the largest of 20,000 values is now and then far out
    theirs = module.models.GoogLeNet(num_classes=20, init_weights=True).state_dict()
    model = models.build("googlenet_torchvision")
    conv = model.conv(320, 3).init(jax.random.key(0), jnp.ones((1, 3, 3, 160)))["params"]
    head = jax.jit(model.aux_head(20, conv=model.conv).init)(jax.random.key(0), jnp.ones((1, 4, 4, 528)))["params"]
    logits = model.head(20).init(jax.random.key(0), jnp.ones((1, 1024)))["params"]["logits"]
    for found, name in (
        (conv["conv"]["kernel"], "inception4e.branch2.1.conv.weight"),
        (head["dense1"]["kernel"], "aux2.fc1.weight"),
        (head["dense1"]["bias"], "aux2.fc1.bias"),
        (head["logits"]["kernel"], "aux2.fc2.weight"),
        (logits["kernel"], "fc.weight"),
    ):
        expected = theirs[name].numpy()
        assert float(jnp.std(found)) == pytest.approx(expected.std(), rel=0.05), name
        assert float(jnp.abs(found).max()) == pytest.approx(np.abs(expected).max(), rel=0.25), name
    assert float(jnp.abs(logits["bias"]).max()) == pytest.approx(1024**-0.5, rel=0.2)


def test_it_is_one_class():
    assert {type(models.build(name)) for name in NAMES} == {GoogLeNet}
