"""The catalogue against what torchvision and Keras publish in their own packages."""

import ast
import importlib.util
import pathlib

import pytest

from cnnjax import models
from cnnjax.errors import UsageError
from cnnjax.pretrained.catalogue import imagenet_classes, published, published_names
from cnnjax.pretrained.preprocessing import preprocess
from tests.pretrained.torchvision_oracle import torchvision

TORCHVISION = {"googlenet_torchvision": "GoogLeNet", "inception_v3_torchvision": "Inception_V3"}
MEMBERS = {"": "IMAGENET1K_V1", "v2": "IMAGENET1K_V2", "features": "IMAGENET1K_FEATURES"}


def torch_files():
    return [published(name) for name in published_names() if published(name).address.endswith(".pth")]


def keras_files():
    return [published(name) for name in published_names() if published(name).address.endswith(".h5")]


def test_torchvision_publishes_the_same():
    nets = {name.lower(): name for name in dir(torchvision().models) if name.endswith("_Weights")}
    files = torch_files()
    assert len(files) == 49
    for file in files:
        net = TORCHVISION.get(file.model, file.model)
        member = getattr(torchvision().models, nets[f"{net.lower()}_weights"])[MEMBERS[file.name.partition(":")[2]]]
        assert file.address == member.url
        metrics = member.meta["_metrics"]["ImageNet-1K"]
        if file.accuracy:
            assert file.accuracy == (metrics["acc@1"], metrics["acc@5"]), file.name
        else:
            assert metrics["acc@1"] != metrics["acc@1"]  # not a number
        assert (file.algorithm, len(file.digest)) == ("sha256", 8)
        assert f"-{file.digest}.pth" in file.address


def test_keras_publishes_the_same():
    spec = importlib.util.find_spec("keras")
    if spec is None or spec.origin is None:
        pytest.skip("Keras is not installed")
    # Read, not imported: importing it would choose its backend for the whole process.
    sources = [p.read_text() for p in (pathlib.Path(spec.origin).parent / "src" / "applications").glob("*.py")]
    strings = {
        node.value
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    hashes = next(
        ast.literal_eval(node.value)
        for source in sources
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
        and getattr(node.targets[0], "id", "") == "WEIGHTS_HASHES"
        and '"resnet50"' in source
    )
    assert len(keras_files()) == 46
    for file in keras_files():
        folder, bare = file.address.rpartition("/")[0], "notop" in file.name
        if file.model.startswith("resnet"):
            assert f"{folder}/" in strings
            assert file.digest == hashes[file.model.removesuffix("_v1")][bare]
        elif file.model.endswith("_keras"):
            assert f"{folder}/" in strings
            assert file.digest in strings
            stem = file.model.removesuffix("_keras").replace("net_b", "netb").replace("mobilenet_v3_", "")
            assert stem in file.file_name
        else:
            assert file.address in strings
            assert file.digest in strings
        assert (file.algorithm, len(file.digest)) in (("md5", 32), ("sha256", 64))


def test_every_file_is_for_a_model_with_a_rule():
    for name in published_names():
        file = published(name)
        model = models.build(file.model, **file.options)
        assert model.include_top is not ("notop" in name or name == "vgg16:features")
        assert file.preprocess == preprocess(name.removesuffix(":notop").removesuffix("-notop"))
        assert file.preprocess.crop == model.input_shape[0]
        assert file.licence


def test_class_names_are_torchvisions():
    assert list(imagenet_classes()) == torchvision().models._meta._IMAGENET_CATEGORIES


def test_there_are_a_thousand_classes():
    names = imagenet_classes()
    assert (len(names), len(set(names))) == (1000, 1000)
    assert (names[0], names[207], names[999]) == ("tench", "golden retriever", "toilet tissue")
    assert published("resnet50").class_names == names


def test_an_unknown_name_is_said():
    with pytest.raises(UsageError, match=r"unknown published weights 'resnet50:v3': did you mean 'resnet50:v2'\?"):
        published("resnet50:v3")
