"""`cnnjax export`: a net as a StableHLO program, run where there is no cnnjax."""

import hashlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export

from cnnjax import models, pretrained, runs, training
from cnnjax.cli.main import run
from tests.cli.commands import last_json, only_line
from tests.pretrained import torchvision_nets
from tests.pretrained.nets import randomised
from tests.pretrained.torchvision_oracle import torchvision

MODULE = """
import jax.numpy as jnp
from flax import linen as nn


class Mean(nn.Module):
    num_classes: int = 1000
    input_shape: tuple = (224, 224, 3)

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_classes, name="logits")(jnp.mean(x, axis=(1, 2)))
"""
ELSEWHERE = """
import sys
sys.modules["cnnjax"] = sys.modules["flax"] = None
import numpy as np
from jax import export
program, images, logits = sys.argv[1:]
with open(program, "rb") as file:
    called = export.deserialize(bytearray(file.read())).call
np.save(logits, np.asarray(called(np.load(images))))
"""


def run_elsewhere(program, images, folder):
    """Return a program's logits from a process that can import neither cnnjax nor Flax."""
    np.save(folder / "images.npy", images)
    words = [sys.executable, "-c", ELSEWHERE, program, folder / "images.npy", folder / "logits.npy"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return np.load(folder / "logits.npy")


def test_a_run_is_a_program_without_cnnjax(workdir, tmp_path, capsys):
    path = tmp_path / "digits.stablehlo"
    assert run(["export", "--workdir", str(workdir), str(path), "--json"]) == 0
    result = last_json(capsys)
    content = path.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["digits.stablehlo"]
    assert result["sha256"] == hashlib.sha256(content).hexdigest()
    assert result["bytes"] == len(content)
    assert result["platforms"] == ["cpu", "cuda", "tpu"]
    assert (result["dtype"], result["num_classes"], len(result["class_names"])) == ("uint8", 10, 10)
    program = export.deserialize(bytearray(content))
    # The one call outside StableHLO checks the batch axis and is a part of the export format itself.
    assert set(re.findall(r"custom_call @(\w+)", program.mlir_module())) <= {"shape_assertion"}

    config, described = runs.read_run(workdir)
    assert result["input_shape"] == ["N", *described["image_shape"]]
    state = training.create_state(
        models.build(config["model"], num_classes=10), optax.identity(), (28, 28, 1), key=jax.random.key(0)
    )
    state = runs.restore_variables(state, runs.load_newest(workdir / "checkpoints")[1])
    images = np.random.default_rng(0).integers(0, 256, (5, *described["image_shape"]), np.uint8)
    shape = (5, *described["input_shape"][:2], images.shape[3])
    resized = jax.image.resize(images.astype(np.float32), shape, "bilinear")
    mean, std = (np.array(described[name], np.float32).reshape(1, 1, 1, -1) for name in ("mean", "std"))
    want = state.apply_fn(state.variables, (resized / 255 - mean) / std, train=False)
    np.testing.assert_allclose(run_elsewhere(path, images, tmp_path), want, rtol=1e-5, atol=1e-5)


def test_a_published_nets_program_prepares_photographs(tmp_path, monkeypatch, capsys):
    (tmp_path / "colours.py").write_text(MODULE)
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    kernel = 3 * np.eye(3, dtype=np.float32)
    variables = {"params": {"logits": {"kernel": jnp.array(kernel), "bias": jnp.zeros(3)}}}
    pretrained.save(variables, tmp_path / "colours.safetensors")
    monkeypatch.chdir(tmp_path)
    words = ["export", "colours:Mean", "--weights", "colours.safetensors", "--classes", "names.txt"]
    assert run([*words, "a.bin"]) == 2
    assert "Give --preprocess NAME" in only_line(capsys)
    words += ["--preprocess", "vgg16:keras", "--image-size", "224", "256", "--batch-size", "2", "--platforms", "cpu"]
    assert run([*words, "--json", "a.bin"]) == 0
    result = last_json(capsys)
    assert (result["input_shape"], result["platforms"]) == ([2, 224, 256, 3], ["cpu"])
    assert result["class_names"] == ["red", "green", "blue"]
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 256, 3), np.uint8)
    prepared = np.asarray(pretrained.preprocess("vgg16:keras")(images), np.float64)  # for an exact mean
    want = prepared.mean(axis=(1, 2)) @ kernel
    np.testing.assert_allclose(run_elsewhere(tmp_path / "a.bin", images, tmp_path), want, rtol=1e-5, atol=1e-4)


def test_a_net_of_grey_images_is_a_program_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = models.build("lenet5", num_classes=4)
    variables = randomised(model)
    pretrained.save(variables, "lenet5.safetensors")
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    words = ["export", "lenet5", "--weights", "lenet5.safetensors", "--classes", "names.txt", "a.bin", "--json"]
    assert run(words) == 2
    assert only_line(capsys).endswith("Give --mean and --std of the images that it was trained on.")
    words += ["--mean", "0.25", "--std", "0.5", "--crop", "28", "--batch-size", "2", "--platforms", "cpu"]
    assert run(words) == 0
    assert last_json(capsys)["input_shape"] == [2, 28, 28, 1]
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)
    program = export.deserialize(bytearray((tmp_path / "a.bin").read_bytes()))
    want = model.apply(variables, (images / np.float32(255) - np.float32(0.25)) / np.float32(0.5))
    np.testing.assert_allclose(program.call(images), want, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("words", "code", "match"),
    [
        (["lenet5", "a.bin"], 2, "expected either --workdir DIR OUT or MODEL --weights FILE OUT"),
        (["--workdir", "no", "lenet5", "a.bin"], 2, "got lenet5 a.bin"),
        (["lenet5", "--weights", "w.h5"], 2, "got lenet5"),
        (["--workdir", "no", "--preprocess", "vgg16", "a.bin"], 2, "leave out --preprocess"),
        (["--workdir", "no", "a.bin"], 1, "no run in no"),
        (["vgg16", "--weights", "none.h5", "--preprocess", "vgg16", "a.bin"], 1, "none.h5: No such file"),
        (["lenet5", "--weights", "w", "--preprocess", "vgg16", "a.bin"], 2, "images of 3 channels, lenet5 takes 1"),
        (["--workdir", "no", "--mean", "0", "a.bin"], 2, "leave out --preprocess, --mean, --std, --crop, --classes"),
        (["lenet5", "--weights", "none.h5", "none/a.bin"], 1, "cannot write none/a.bin"),
        (["--workdir", "no", "--platforms", "gpu", "a.bin"], 2, "unknown platform 'gpu'"),
        (["--workdir", "no", "--batch-size", "0", "a.bin"], 2, "--batch-size: expected at least 1, got 0"),
    ],
)
def test_mistakes_are_one_line(words, code, match, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["export", *words]) == code
    assert match in only_line(capsys)
    assert not list(tmp_path.iterdir())


def prepared_by_torchvision(net, weights, images):
    """Return the logits of torchvision's net for images that its own preset prepares."""
    import torch

    preset = getattr(torchvision().models, f"{weights}_Weights").IMAGENET1K_V1.transforms()
    net.transform_input = True  # what torchvision sets with its own weights; GoogLeNet and InceptionV3 read it
    with torch.no_grad():
        return net(preset(torch.tensor(images).permute(0, 3, 1, 2))).numpy()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet18", "ResNet18"),
        ("vgg11_bn", "VGG11_BN"),
        ("googlenet_torchvision", "GoogLeNet"),
        ("inception_v3_torchvision", "Inception_V3"),
    ],
)
def test_torchvisions_nets_as_programs_give_torchvisions_logits(name, weights, tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    net = torchvision_nets.build(name.removesuffix("_torchvision"), num_classes=10)
    torch.save(net.state_dict(), "a.pth")
    (tmp_path / "names.txt").write_text("\n".join(f"class {n}" for n in range(10)))
    words = ["export", name, "--weights", "a.pth", "--classes", "names.txt", "--preprocess", name, "a.bin", "--json"]
    assert run(words) == 0
    result = last_json(capsys)
    side = pretrained.preprocess(name).resize
    assert result["input_shape"] == ["N", side, side, 3]
    assert result["platforms"] == ["cpu", "cuda", "tpu"]
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8) // np.array([[[[1]]], [[[3]]]])
    images = images.astype(np.uint8)
    want = prepared_by_torchvision(net, weights, images)
    got = run_elsewhere(tmp_path / "a.bin", images, tmp_path)
    assert np.abs(want[0] - want[1]).max() > 0.05 * np.abs(want).max()
    assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()
