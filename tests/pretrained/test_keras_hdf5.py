"""Names and values out of Keras's files: the same from each format, the same as in Keras, or one line why not."""

import json
import shutil
import subprocess
import sys
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest

from cnnjax import models
from cnnjax.models.mobilenet_v3 import SMALL, MobileNetV3
from cnnjax.pretrained import WeightsError, load, open_file
from tests.pretrained import keras_small


@pytest.fixture
def small(small_keras):
    """The folder of the small net's files, and its values."""
    return small_keras


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.h5"


def legacy(path, layers, root=""):
    """Write a legacy file: layer -> {name as listed: values}."""
    with h5py.File(path, "w") as file:
        group = file.create_group(root) if root else file
        group.attrs["layer_names"] = [name.encode() for name in layers]
        for layer, weights in layers.items():
            within = group.create_group(layer)
            within.attrs["weight_names"] = [name.encode() for name in weights]
            for name, values in weights.items():
                within.create_dataset(name, data=values)


def counted(path, layers):
    """Write a `.weights.h5` without layers' names: path of the layer -> its variables."""
    with h5py.File(path, "w") as file:
        for layer, variables in layers.items():
            group = file.create_group(f"{layer}/vars")
            for number, values in enumerate(variables):
                group[str(number)] = values


def kernel(seed=0):
    return np.random.default_rng(seed).normal(size=(3, 3, 2, 4)).astype("f4")


@pytest.mark.parametrize(("ending", "form"), [(".h5", "keras-h5"), (".keras", "keras")])
def test_names_and_values_are_kerass(small, ending, form):
    folder, want = small
    file = open_file(folder / f"net{ending}")
    assert file.format == form
    assert set(file.tensors) == set(want)
    for name, tensor in file.tensors.items():
        assert tensor.dtype == want[name].dtype
        np.testing.assert_array_equal(tensor.read(), want[name], err_msg=name)
    assert "the optimizer's state is not read" in file.notes


def test_weights_alone_do_not_say_which_of_gamma_and_beta_they_have(small):
    folder, want = small
    file = open_file(folder / "net.weights.h5")
    assert file.format == "keras-weights-h5"
    # Three variables are those of a normalisation without gamma, as in InceptionV3.
    only = "body/batch_normalization_1/gamma"
    renamed = {name.replace("_1/gamma", "_1/beta"): values for name, values in want.items()}
    assert only in want
    assert set(file.tensors) == set(renamed)
    for name, tensor in file.tensors.items():
        np.testing.assert_array_equal(tensor.read(), renamed[name], err_msg=name)


def test_names_of_keras_2_and_1(path):
    layers = {
        "input_1": {},
        "block1_conv1": {"block1_conv1_1/kernel:0": kernel(), "block1_conv1_1/bias:0": np.ones(4, "f4")},
        "old": {"old_W_1:0": kernel(1), "old_b_1:0": np.zeros(4, "f4")},
        "bn": {f"bn_{part}:0": np.ones(4, "f4") for part in ("gamma", "beta", "running_mean", "running_std")},
        "conv2d_57": {"conv2d_57/kernel:0": kernel(2)},
        "conv2d_31": {"conv2d_31/kernel:0": kernel(3)},
    }
    legacy(path, layers)
    tensors = open_file(path).tensors
    norms = ["bn/gamma", "bn/beta", "bn/moving_mean", "bn/moving_variance"]
    own = ["block1_conv1/kernel", "block1_conv1/bias", "old/kernel", "old/bias"]
    assert list(tensors) == [*own, *norms, "conv2d/kernel", "conv2d_1/kernel"]
    np.testing.assert_array_equal(tensors["conv2d/kernel"].read(), kernel(2))
    np.testing.assert_array_equal(tensors["old/kernel"].read(), kernel(1))


def test_nested_models_are_folders_unless_all_is_in_one(path):
    base = {"block1_conv1/kernel:0": kernel(), "block1_conv1/bias:0": np.ones(4, "f4"), "bn/beta:0": np.ones(4, "f4")}
    legacy(path, {"vgg16": base, "dense_4": {"dense_4/kernel:0": np.ones((4, 2), "f4")}}, "model_weights")
    inner = ["block1_conv1/kernel", "block1_conv1/bias", "bn/beta"]
    assert list(open_file(path).tensors) == [*(f"vgg16/{name}" for name in inner), "dense/kernel"]
    legacy(path, {"vgg16": base, "flatten": {}}, "model_weights")
    assert list(open_file(path).tensors) == inner


def test_long_lists_of_names_are_in_pieces(path):
    layers = {f"layer_{n}": {f"layer_{n}/kernel": kernel(n)} for n in range(7)}
    legacy(path, layers)
    with h5py.File(path, "a") as file:
        del file.attrs["layer_names"]
        file.attrs["layer_names0"] = [f"layer_{n}".encode() for n in (6, 5, 4, 3)]
        file.attrs["layer_names1"] = [f"layer_{n}".encode() for n in (2, 1, 0)]
    assert list(open_file(path).tensors) == [f"layer_{n}/kernel" for n in range(6, -1, -1)]


def test_layers_without_names_are_counted_in_their_order(path):
    counted(
        path,
        {f"layers/conv2d{f'_{n}' if n else ''}": [kernel(n)] for n in range(12)} | {"layers/dense": [kernel()[0, 0]]},
    )
    tensors = open_file(path).tensors
    assert list(tensors)[:3] == ["conv2d/kernel", "conv2d_1/kernel", "conv2d_2/kernel"]
    for n in range(1, 12):
        np.testing.assert_array_equal(tensors[f"conv2d_{n}/kernel"].read(), kernel(n))


def test_keras_2_13_calls_its_layers_otherwise(path):
    counted(path, {"_layer_checkpoint_dependencies/conv2d": [kernel(), np.ones(4, "f4")]})
    assert list(open_file(path).tensors) == ["conv2d/kernel", "conv2d/bias"]


def test_bfloat16_is_two_bytes_that_keras_names(path):
    values = kernel().astype(ml_dtypes.bfloat16)
    with h5py.File(path, "w") as file:
        data = file.create_dataset("layers/conv2d/vars/0", data=values.view("V2"))
        data.attrs["dtype"] = "bfloat16"
    tensor = open_file(path).tensors["conv2d/kernel"]
    assert tensor.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(tensor.read(), values)


def refused(path, match):
    with pytest.raises(WeightsError, match=match) as caught:
        open_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_lists_that_do_not_fit_what_is_there(path):
    good = {"a": {"a/kernel": kernel()}, "b": {"b/kernel": kernel()}}
    for change, match in [
        (lambda f: f.attrs.__setitem__("layer_names", [b"a"]), "the layer 'b' is not in the file's own list"),
        (lambda f: f.attrs.__setitem__("layer_names", [b"a", b"b", b"c"]), "the layer 'c' is listed, but not there"),
        (lambda f: f.attrs.__setitem__("layer_names", [b"a", b"a", b"b"]), "two tensors are named 'a/kernel'"),
        (lambda f: f["a"].attrs.__setitem__("weight_names", [b"a/bias"]), "the weight 'a/bias' is listed, but not"),
        (lambda f: f["a"].attrs.__delitem__("weight_names"), "the layer 'a' lists 0 weights and has 1"),
        (lambda f: f["a"].create_dataset("extra", data=1.0), "the layer 'a' lists 1 weights and has 2"),
    ]:
        legacy(path, good)
        with h5py.File(path, "a") as file:
            change(file)
        refused(path, match)


def test_counts_with_gaps(path):
    counted(path, {"layers/conv2d": [kernel()], "layers/conv2d_2": [kernel()]})
    refused(path, "the group 'conv2d_1' is not there, but ones with a higher number are")
    with h5py.File(path, "w") as file:
        file["layers/conv2d/vars/0"] = kernel()
        file["layers/conv2d/vars/2"] = kernel()
    refused(path, "conv2d: expected variables 0, 1, ..., got 0, 2")


def test_hdf5_that_is_not_kerass(path):
    with h5py.File(path, "w") as file:
        file["x/y"] = kernel()
    refused(path, "x/y: a tensor where Keras has none")
    with h5py.File(path, "w") as file:
        file.create_group("x")
    refused(path, "it is HDF5, but not a Keras file with weights")


def test_text_in_place_of_numbers(path):
    with h5py.File(path, "w") as file:
        file["layers/conv2d/vars/0"] = np.array([b"abc"])
    refused(path, "conv2d/0: expected numbers, got")


def rezip(source, target, change, compression=zipfile.ZIP_STORED):
    """Copy an archive with its members changed; what is changed to None is left out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)


def test_an_archive_may_be_compressed(small, tmp_path):
    folder, want = small
    rezip(folder / "net.keras", tmp_path / "net.keras", lambda _, content: content, zipfile.ZIP_DEFLATED)
    assert (tmp_path / "net.keras").stat().st_size < (folder / "net.keras").stat().st_size
    tensors = open_file(tmp_path / "net.keras").tensors
    for name, values in want.items():
        np.testing.assert_array_equal(tensors[name].read(), values)


def test_an_archive_is_whole_and_agrees_with_itself(small, tmp_path):
    folder, _ = small
    path = tmp_path / "net.keras"

    def config(change):
        def apply(name, content):
            return change(content) if name == "config.json" else content

        return apply

    deep = b'{"config": {"layers": ' * 50_000 + b"1" + b"}}" * 50_000
    for change, match in [
        (
            lambda name, content: None if name == "config.json" else content,
            "not a whole .keras file: config.json is not",
        ),
        (lambda name, content: None if name.startswith("model") else content, "model.weights.h5 is not in it"),
        (
            config(lambda content: content.replace(b'"first"', b'"other"')),
            "is 'first' in the weights, 'other' in the conf",
        ),
        (config(lambda _: b"{"), "its configuration is damaged"),
        (config(lambda _: deep), "its configuration is damaged"),
        (config(lambda _: json.dumps({"config": {"layers": [{}]}}).encode()), "has a layer without a class or a name"),
    ]:
        rezip(folder / "net.keras", path, change)
        refused(path, match)


def test_bombs_and_members_outside(small, tmp_path):
    folder, _ = small
    path = tmp_path / "net.keras"
    shutil.copy(folder / "net.keras", path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../outside", b"x")
    refused(path, "the member '../../outside' lies outside the archive")
    rezip(
        folder / "net.keras",
        path,
        lambda name, content: bytes(200_000_000) if name == "model.weights.h5" else content,
        zipfile.ZIP_DEFLATED,
    )
    assert path.stat().st_size < 1_000_000
    refused(path, "it would unpack to more than 50 times its size")


def test_no_module_of_keras_or_hdf5_is_imported(small):
    folder, _ = small
    code = (
        "import sys; from cnnjax.pretrained import open_file\n"
        f"for ending in {keras_small.ENDINGS!r}: open_file({str(folder / 'net')!r} + ending)\n"
        "print([name for name in ('h5py', 'keras', 'tensorflow', 'torch') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_nested_models_misfit_is_told_by_its_names(path):
    base = {"block1_conv1/kernel:0": np.zeros((3, 3, 3, 64), "f4"), "block1_conv1/bias:0": np.ones(64, "f4")}
    base |= {"block9/kernel:0": kernel()}
    legacy(path, {"vgg16": base, "dense_4": {"dense_4/kernel:0": np.ones((4, 2), "f4")}}, "model_weights")
    with pytest.raises(WeightsError) as error:
        load(models.build("vgg16"), path)
    assert "missing: params/head/dense1/bias [4096] (expected vgg16/fc1/bias" in str(error.value)
    assert "left over: vgg16/block9/kernel [3, 3, 2, 4]" in str(error.value)


def test_layers_with_slashes_in_their_names_as_keras_2_had_them(path):
    rng = np.random.default_rng(0)

    def conv(layer, *shape, bias=0, name="kernel"):
        weights = {f"{layer}/{name}:0": rng.normal(size=shape).astype("f4")}
        return {layer: weights | ({f"{layer}/bias:0": rng.normal(size=bias).astype("f4")} if bias else {})}

    def norm(layer, channels):
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        return {layer: {f"{layer}/{name}:0": rng.uniform(1, 2, channels).astype("f4") for name in names}}

    layers = {
        **conv("Conv", 3, 3, 3, 16),
        **norm("Conv/BatchNorm", 16),
        **conv("expanded_conv/depthwise", 3, 3, 16, 1, name="depthwise_kernel"),
        **norm("expanded_conv/depthwise/BatchNorm", 16),
        **conv("expanded_conv/squeeze_excite/Conv", 1, 1, 16, 8, bias=8),
        **conv("expanded_conv/squeeze_excite/Conv_1", 1, 1, 8, 16, bias=16),
        **conv("expanded_conv/project", 1, 1, 16, 16),
        **norm("expanded_conv/project/BatchNorm", 16),
        **conv("Conv_1", 1, 1, 16, 96),
        **norm("Conv_1/BatchNorm", 96),
        **conv("Conv_2", 1, 1, 96, 24, bias=24),
        **conv("Logits", 1, 1, 24, 5, bias=5),
    }
    legacy(path, layers)
    model = MobileNetV3(blocks=SMALL[:1], hidden=24, num_classes=5, same_padding=True)
    variables, report = load(model, path)
    assert report.naming == "keras"
    params, stats = variables["params"], variables["batch_stats"]

    def written(layer, name="kernel"):
        return layers[layer][f"{layer}/{name}:0"]

    np.testing.assert_array_equal(params["stem"]["conv"]["kernel"], written("Conv"))
    np.testing.assert_array_equal(stats["stem"]["norm"]["mean"], written("Conv/BatchNorm", "moving_mean"))
    depthwise = written("expanded_conv/depthwise", "depthwise_kernel").transpose(0, 1, 3, 2)
    np.testing.assert_array_equal(params["block0"]["depthwise"]["conv"]["kernel"], depthwise)
    squeezed = written("expanded_conv/squeeze_excite/Conv")
    np.testing.assert_array_equal(params["block0"]["gate"]["reduce"]["kernel"], squeezed)
    np.testing.assert_array_equal(params["head"]["dense1"]["kernel"], written("Conv_2")[0, 0])
    np.testing.assert_array_equal(params["head"]["logits"]["bias"], written("Logits", "bias"))
