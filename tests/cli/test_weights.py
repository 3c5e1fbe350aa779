"""`cnnjax weights`: looking into files, and converting them."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization

from cnnjax import models, runs, training
from cnnjax.cli.main import run
from cnnjax.pretrained import load, save
from cnnjax.pretrained.catalogue import published_names
from tests.cli.commands import last_json, only_line
from tests.optional import torch
from tests.pretrained.nets import randomised
from tests.pretrained.torchvision_oracle import torchvision


def inspected(path, capsys):
    assert run(["weights", "inspect", str(path), "--json"]) == 0
    return last_json(capsys)


def test_inspect_says_what_is_in_a_file_and_what_it_fits(tmp_path, capsys):
    net = torchvision().models.resnet18(num_classes=7)
    torch.save({"state_dict": net.state_dict(), "epoch": 3}, tmp_path / "a.pth")
    found = inspected(tmp_path / "a.pth", capsys)
    assert found["format"] == "torch"
    assert found["tensors"][0] == {"name": "conv1.weight", "shape": [64, 3, 7, 7], "dtype": "float32", "bytes": 37632}
    assert found["bytes"] == sum(value.numel() * value.element_size() for value in net.state_dict().values())
    assert found["fits"] == [{"model": "resnet18", "names": "torchvision", "num_classes": 7, "options": {}}]
    assert found["notes"] == ["The state is under 'state_dict', beside epoch."]
    assert run(["weights", "inspect", str(tmp_path / "a.pth")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["conv1.weight", "64x3x7x7", "float32", "37,632", "B"]
    assert lines[-3].startswith("torch: 122 tensors, 44.8 MB")
    assert lines[-1] == "fits resnet18 (names of torchvision, 7 classes)"


def test_inspect_says_what_is_left_out(tmp_path, capsys):
    torch.save({"model": {"w": torch.ones(2)}, "ema": {"w": torch.ones(3)}}, tmp_path / "a.pth")
    assert inspected(tmp_path / "a.pth", capsys)["left_out"] == [
        {"name": "ema.w", "shape": [3], "dtype": "float32", "reason": "under 'ema', beside the state under 'model'"}
    ]
    assert run(["weights", "inspect", str(tmp_path / "a.pth")]) == 0
    assert "1 more left out: under 'ema', beside the state under 'model'" in capsys.readouterr().out


def test_inspect_finds_variants(tmp_path, capsys):
    model = models.build("googlenet_torchvision", num_classes=5, aux_logits=False)
    save(randomised(model), tmp_path / "a", names="torchvision", model=model)
    assert inspected(tmp_path / "a", capsys)["fits"] == [
        {
            "model": "googlenet_torchvision",
            "names": "torchvision",
            "num_classes": 5,
            "options": {"aux_logits": False},
        }
    ]
    model = models.build("lenet5", include_top=False)
    (tmp_path / "b").write_bytes(serialization.to_bytes(randomised(model)))
    assert inspected(tmp_path / "b", capsys)["fits"] == [
        {"model": "lenet5", "names": "cnnjax", "num_classes": None, "options": {"include_top": False}}
    ]


def test_inspect_of_strange_files(tmp_path, capsys):
    header = json.dumps({"a\x1b[31m": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert run(["weights", "inspect", str(tmp_path / "a")]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert text.splitlines()[-1] == "fits no net that is known here, to the last tensor"
    (tmp_path / "b").write_bytes(b"\x80\x04cos\nsystem\n.")
    assert run(["weights", "inspect", str(tmp_path / "b")]) == 1
    assert "a plain pickle" in only_line(capsys)
    assert run(["weights", "inspect", str(tmp_path / "c")]) == 1
    assert "c: No such file or directory." in only_line(capsys)


@pytest.mark.parametrize("names", ["cnnjax", "torchvision"])
def test_convert_writes_the_same_net(names, tmp_path, capsys):
    net = torchvision().models.resnet18(num_classes=7)
    torch.save(net.state_dict(), tmp_path / "a.pth")
    out = tmp_path / "a.safetensors"
    words = ["weights", "convert", "resnet18", str(tmp_path / "a.pth"), str(out), "--names", names, "--json"]
    assert run(words) == 0
    result = last_json(capsys)
    assert (result["model"], result["num_classes"], result["out"]) == ("resnet18", 7, str(out))
    assert result["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert len(result["report"]["entries"]) == 122
    model = models.build("resnet18", num_classes=7)
    first, second = (load(model, path)[0] for path in (tmp_path / "a.pth", out))
    assert jax.tree.all(jax.tree.map(np.array_equal, first, second))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["resnet19", "{file}", "{out}"], 2, "unknown model 'resnet19': did you mean 'resnet1"),
        (["lenet5", "{file}", "{out}"], 1, "it does not fit LeNet5 by the names of cnnjax: 10 missing: params/"),
        (["simple_cnn", "{file}", "{file}"], 2, "expected another file than the one that is read"),
        (["simple_cnn", "{file}", "{out}", "--names", "torchvison"], 2, "unknown names 'torchvison'"),
        (["simple_cnn", "{file}", "."], 2, "expected the name of a file to write, . is a folder"),
        (["simple_cnn", "{file}", "{out}.PTH"], 2, "expected another ending, .safetensors, since that is"),
        (["simple_cnn", "{file}", "{out}.weights.h5"], 2, "expected another ending, .safetensors"),
        (["simple_cnn", "{file}", "/none/out"], 1, "cannot write /none/out: No such file or directory"),
        (["simple_cnn", "/none/in", "{out}"], 1, "/none/in: No such file or directory"),
        (["simple_cnn", "{file}", "{out}", "--num-classes", "7"], 1, "the file has 10 classes, the model 7: its head"),
        (["simple_cnn", "{file}", "{out}", "--num-classes", "0"], 2, "--num-classes: expected at least 1, got 0"),
    ],
)
def test_convert_refuses_in_one_line(words, code, message, tmp_path, capsys):
    path = tmp_path / "a"
    save(randomised(models.build("simple_cnn", num_classes=10)), path)
    assert run(["weights", "convert", *(w.format(file=path, out=tmp_path / "b") for w in words)]) == code
    assert message in only_line(capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_net_by_its_module_gets_the_files_classes(tmp_path, capsys):
    save(randomised(models.build("simple_cnn", num_classes=7)), tmp_path / "a.safetensors")
    words = ["weights", "convert", "cnnjax.models.simple_cnn:SimpleCNN", str(tmp_path / "a.safetensors")]
    assert run([*words, str(tmp_path / "b.safetensors"), "--json"]) == 0
    assert last_json(capsys)["num_classes"] == 7


def test_a_runs_checkpoint_is_known_and_converted(tmp_path, capsys):
    model = models.build("simple_cnn", num_classes=7)
    variables = randomised(model)
    values = jax.tree.map(jnp.asarray, variables)
    state = training.create_state(model, optax.adam(0.1), (28, 28, 1), key=jax.random.key(1), variables=values)
    checkpoint = runs.save(tmp_path / "step-1", runs.flatten_state(state), {"step": 1})
    fits = [{"model": "simple_cnn", "names": "cnnjax", "num_classes": 7, "options": {}}]
    assert inspected(checkpoint, capsys)["fits"] == fits
    assert inspected(checkpoint / "arrays.safetensors", capsys)["fits"] == fits
    for number, words in enumerate(([], ["--num-classes", "7"])):
        out = tmp_path / f"{number}.safetensors"
        assert run(["weights", "convert", "simple_cnn", str(checkpoint), str(out), *words, "--json"]) == 0
        result = last_json(capsys)
        assert result["num_classes"] == 7
        dropped = {entry["source"].split("/")[0] for entry in result["report"]["entries"] if not entry["destination"]}
        assert dropped == {"opt_state", "step", "key"}
        assert jax.tree.all(jax.tree.map(np.array_equal, load(model, out)[0], variables))


def test_convert_takes_ones_own_module(tmp_path, capsys):
    path = tmp_path / "a"
    save(randomised(models.build("simple_cnn", num_classes=10)), path)
    words = ["weights", "convert", "cnnjax.models.simple_cnn:SimpleCNN", str(path), str(tmp_path / "b")]
    assert run([*words, "--num-classes", "10"]) == 0
    assert json.loads((tmp_path / "b").read_bytes()[8:].split(b"}}")[0] + b"}}")["params/conv1/conv/bias"]["shape"] == [
        32
    ]
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"wrote {tmp_path / 'b'}, sha256 ")


def test_list_shows_every_official_file_with_what_is_published_of_it(capsys):
    assert run(["weights", "list", "--json"]) == 0
    files = {file["name"]: file for file in last_json(capsys)["files"]}
    assert sorted(files) == published_names()
    v2 = files["resnet50:v2"]
    assert (v2["accuracy"], v2["digest"], v2["preprocess"]["resize"]) == ([80.858, 95.434], "11ad3fa6", 232)
    assert run(["weights", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("vgg16 "))
    assert all(part in line for part in ("71.592 / 90.382 %", "256 to 224, RGB", "sha256 397923af", "BSD-3-Clause"))
