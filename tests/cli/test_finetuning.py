"""Training that starts from a file of weights, with a part of the net frozen."""

import importlib
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from cnnjax import pretrained
from cnnjax.cli.main import run
from tests.cli.commands import TRAIN, only_line

MODULE = """
import jax.numpy as jnp
from flax import linen as nn


class Net(nn.Module):
    num_classes: int = 10
    input_shape: tuple = (28, 28, 1)

    @nn.compact
    def __call__(self, x, *, train=False):
        for name, features in (("first", 4), ("second", 8)):
            x = nn.Conv(features, (3, 3), strides=2, name=f"{name}_conv")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.5, name=f"{name}_norm")(x))
        return nn.Dense(self.num_classes, name="head")(jnp.mean(x, axis=(1, 2)))
"""


@pytest.fixture
def net(tmp_path, monkeypatch):
    """A net with batch norm in a module beside the user, and random variables of it in a file: these by their paths."""
    (tmp_path / "normed.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.delitem(sys.modules, "normed", raising=False)
    model = importlib.import_module("normed").Net()
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    shapes = traverse_util.flatten_dict(variables, sep="/")
    random = np.random.default_rng(0)
    flat = {path: random.uniform(0.1, 1, leaf.shape).astype(np.float32) for path, leaf in shapes.items()}
    write(flat)
    return flat


def write(flat):
    pretrained.save(traverse_util.unflatten_dict(flat, sep="/"), "net.safetensors")


WORDS = ["train", "normed:Net", *TRAIN[2:4], "--epochs", "1", "--no-tensorboard", "--workdir", "tuned"]


def tuned(pattern):
    """Return every parameter and statistic after an epoch that starts from the file."""
    assert run([*WORDS, "--weights", "net.safetensors", "--freeze", pattern]) == 0
    last = sorted(pathlib.Path("tuned").glob("checkpoints/*/arrays.safetensors"))[-1].parent
    tensors = pretrained.open_file(last).tensors
    return {name: tensors[name].read() for name in tensors if name.startswith(("params/", "batch_stats/"))}


def same_bits(before, after):
    assert before.keys() == after.keys()
    return {path for path in before if before[path].tobytes() == after[path].tobytes()}


def test_frozen_layers_and_their_statistics_keep_the_files_bits_and_the_others_learn(net, capsys):
    after = tuned("^first_")
    assert "weights: net.safetensors: 14 loaded\n" in capsys.readouterr().out
    same = same_bits(net, after)
    assert same == {path for path in net if "/first_" in path}
    assert {path.partition("/")[0] for path in same} == {"params", "batch_stats"}
    # The same words again find a finished run; another choice of what is frozen is another run.
    words = [*WORDS, "--weights", "net.safetensors", "--freeze"]
    assert run([*words, "^first_"]) == 0
    capsys.readouterr()
    assert run([*words, "^first_conv"]) == 2
    assert "freeze" in only_line(capsys)
    # So are other pixels, which once were answered with the first run's result.
    for option in (["--preprocess", "dataset"], ["--mean", "0.1", "--std", "0.3"], ["--prefix", "first_"]):
        assert run([*words, "^first_", *option]) == 2
        assert f"{option[0][2:]} None there, " in only_line(capsys)


def test_a_head_for_other_classes_is_said_to_be_new(net, capsys):
    other = {"params/head/kernel": np.ones((8, 7), np.float32), "params/head/bias": np.ones(7, np.float32)}
    write(net | other)
    after = tuned("^(first|second)_")
    text = capsys.readouterr().out
    assert "weights: net.safetensors: 2 dropped, 2 initialised, 12 loaded\n" in text
    assert "weights: the file has 7 classes, the model 10: its head is not taken\n" in text
    assert same_bits(net, after) == net.keys() - other.keys()


def test_mistakes_are_one_line(tmp_path, capsys):
    (tmp_path / "no.safetensors").write_bytes(b"text")
    for options, code, message in (
        (["--weights", str(tmp_path / "none.pth")], 1, "none.pth"),
        (["--weights", str(tmp_path / "no.safetensors")], 1, "no.safetensors"),
        (["--freeze", "^stem"], 2, "'^stem' matches no parameter"),
    ):
        assert run([*TRAIN, *options, "--workdir", str(tmp_path / "run")]) == code
        assert message in capsys.readouterr().err
