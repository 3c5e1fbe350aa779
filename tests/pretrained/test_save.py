"""`save`: bit for bit what went in, readable by torch in torchvision's names, there whole or not at all."""

import os
import resource
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from cnnjax import models
from cnnjax.errors import CnnjaxError, UsageError
from cnnjax.pretrained import load, open_file, save
from tests.optional import torch
from tests.pretrained.nets import Net, randomised
from tests.pretrained.torchvision_oracle import torchvision


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_every_bit_comes_back(tmp_path):
    variables = randomised(Net())
    variables["params"]["conv"]["bias"][:] = np.array([0x7FC00001, 0xFF800000, 1, 0x80000000, 0x7F7FFFFF], "u4").view(
        "f4"
    )
    save({**variables, "intermediates": {"a": np.ones(2)}}, tmp_path / "a.safetensors")
    loaded, _ = load(Net(), tmp_path / "a.safetensors")
    bits = jax.tree.map(lambda leaf: np.asarray(leaf).view("u4"), loaded)
    assert same(bits, jax.tree.map(lambda leaf: leaf.view("u4"), variables))


# One of each family; the other depths have the same rules.
QUICK = ["resnet18", "googlenet_torchvision"]
SLOW = ["alexnet", "vgg11", "vgg11_bn", "resnet50", "inception_v3_torchvision"]


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_torch_loads_what_is_saved_in_torchvisions_names(name, tmp_path):
    library = pytest.importorskip("safetensors.torch")
    model = models.build(name, num_classes=10)
    variables = randomised(model)
    path = tmp_path / "a.safetensors"
    save(variables, path, names="torchvision", model=model)
    options = {} if name.startswith(("resnet", "alexnet")) else {"init_weights": False}
    with torch.device("meta"):  # without memory for parameters that are replaced at once
        net = getattr(torchvision().models, name.removesuffix("_torchvision"))(num_classes=10, **options)
    net.load_state_dict(library.load_file(path), strict=True, assign=True)
    torch.save(net.state_dict(), tmp_path / "b.pth")
    loaded, _ = load(model, tmp_path / "b.pth")
    assert same(loaded, variables)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save({"params": {"a": np.ones(2)}}, path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CnnjaxError, match=rf"cannot write {path}: No space left on device\."):
        save({"params": {"a": np.zeros(5)}}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    with pytest.raises(CnnjaxError, match=r"cannot write .*: No such file or directory"):
        save({"params": {"a": np.zeros(5)}}, tmp_path / "none" / "a")


def test_a_disk_that_is_full_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save({"params": {"a": np.ones(2)}}, path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))  # writes beyond it fail, Python ignores the signal
    try:
        with pytest.raises(CnnjaxError) as caught:
            save({"params": {"a": np.zeros(1 << 20)}}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value) == f"cannot write {path}: File too large."
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_process_that_is_killed_while_it_writes_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save({"params": {"a": np.ones(2)}}, path)
    before = path.read_bytes()
    code = """
import os, pathlib, signal, sys
import numpy as np
from cnnjax import pretrained
pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # all is written but the name
pretrained.save({"params": {"a": np.zeros(100)}}, sys.argv[1])
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    save({"params": {"a": np.zeros(3)}}, path)
    assert load_values(path) == [0, 0, 0]


def load_values(path):
    return open_file(path).tensors["params/a"].read().tolist()


def test_wrong_usage_is_said(tmp_path):
    variables = randomised(Net())
    with pytest.raises(UsageError, match="expected model= beside names='torchvision'"):
        save(variables, tmp_path / "a", names="torchvision")
    with pytest.raises(UsageError, match="unknown names 'torchvision'"):
        save(variables, tmp_path / "a", names="torchvision", model=Net())
    with pytest.raises(UsageError, match=r"torchvision has no name for params/conv/"):
        save(variables, tmp_path / "a", names="torchvision", model=models.build("resnet20"))
    with pytest.raises(UsageError, match="expected variables with params"):
        save({"weights": np.ones(2)}, tmp_path / "a")
    with pytest.raises(UsageError, match="params/a is complex64, expected one of"):
        save({"params": {"a": np.ones(2, np.complex64)}}, tmp_path / "a")
    for folder in (tmp_path, "."):
        with pytest.raises(UsageError, match=r"save: expected the name of a file to write, .* is a folder\."):
            save(variables, folder)
    assert not list(tmp_path.iterdir())
