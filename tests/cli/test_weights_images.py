"""The images that weights know, from the file through training to every verb that asks the run."""

import json
import pathlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnnjax import Classifier, pretrained, runs, safetensors
from cnnjax.cli.main import run
from cnnjax.pretrained.preprocessing import from_json
from tests.cli.commands import last_json, only_line

MODULE = """
import jax.numpy as jnp
from flax import linen as nn


class Colours(nn.Module):
    num_classes: int = 3
    scale: float = 1.0
    width: int = 3
    input_shape: tuple = (12, 12, 3)

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width, name="first")(jnp.mean(x, axis=(1, 2)))
        return nn.Dense(self.num_classes, name="logits")(self.scale * x)


def wide(num_classes, *, width: int = 5):
    return Colours(num_classes=num_classes, width=width)


def number():
    return 5
"""
NAMES = ("blue", "green", "red")


def write(path, first, bias, **metadata):
    layers = {"first": (first, bias), "logits": (np.eye(3), np.zeros(3))}
    tree = {name: {"kernel": kernel, "bias": b} for name, (kernel, b) in layers.items()}
    tree = {name: {leaf: jnp.array(v, jnp.float32) for leaf, v in both.items()} for name, both in tree.items()}
    pretrained.save({"params": tree}, path, **metadata)


@pytest.fixture
def colours(tmp_path, monkeypatch):
    """Photographs that are a little bluer, greener or redder, and a net that tells them: where half of them lie."""
    (tmp_path / "hues.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.delitem(sys.modules, "hues", raising=False)
    random = np.random.default_rng(0)
    for label, name in enumerate(NAMES):
        for split, count in (("train", 10), ("validation", 4), ("test", 10)):
            folder = pathlib.Path("photos", split, name)
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 200, (12, 12, 3)).astype(float)
                pixels[..., 2 - label] += 25 + random.normal(0, 12)
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    # For pixels from Keras: blue first, and the mean taken off. Blue's score is blue's mean, and so on, times ten.
    write("keras.safetensors", np.eye(3) * 10 / 255, np.array([103.939, 116.779, 123.68]) * 10 / 255)
    return sorted(pathlib.Path("photos/test").glob("*/*.png"))


def truth(paths):
    """Return the loss and the accuracy that the net's scores give in double precision, and what it takes each for."""
    logits, labels = [], []
    for path in paths:
        with Image.open(path) as image:
            logits.append(10 * np.asarray(image, np.float64).mean((0, 1))[::-1] / 255)
        labels.append(NAMES.index(path.parent.name))
    logits, labels = np.array(logits), np.array(labels)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels]
    return losses.mean(), (logits.argmax(-1) == labels).mean(), [NAMES[best] for best in logits.argmax(-1)]


TRAIN = ["train", "hues:Colours", "--dataset", "photos", "--epochs", "1", "--batch-size", "10", "--lr", "1e-9"]
FROZEN = [*TRAIN, "--optimizer", "sgd", "--freeze", "^first", "--no-tensorboard", "--weights", "keras.safetensors"]


def test_fine_tuning_feeds_the_pixels_that_the_weights_know_and_so_does_every_verb_after_it(colours, capsys):
    loss, accuracy, classes = truth(colours)
    assert 0.5 < accuracy < 1
    words = [*FROZEN, "--preprocess", "vgg16:keras", "--workdir", "run", "--json"]
    assert run(words) == 0
    text = capsys.readouterr()
    result = json.loads(text.out)
    assert result["test_accuracy"] == pytest.approx(accuracy)
    assert result["test_loss"] == pytest.approx(loss, rel=1e-4)
    line = "images: prepared as the weights know them, BGR, (pixel * 1 - (103.939, 116.779, 123.68)) / (1.0, 1.0, 1.0)"
    assert sum(said.startswith(line) for said in text.err.splitlines()) == 1
    _, described = runs.read_run(pathlib.Path("run"))
    assert from_json(described["preprocess"]) == pretrained.preprocess("vgg16:keras").of_size((12, 12, 3))
    assert run(["eval", "--workdir", "run", "--json"]) == 0
    found = last_json(capsys)
    assert (found["accuracy"], found["loss"]) == (result["test_accuracy"], pytest.approx(result["test_loss"]))
    assert run(["predict", "--workdir", "run", *map(str, colours), "--json"]) == 0
    assert [each["predictions"][0]["class"] for each in last_json(capsys)["predictions"]] == classes
    assert run(["export", "--workdir", "run", "run.stablehlo", "--platforms", "cpu"]) == 0
    from jax import export

    program = export.deserialize(bytearray(pathlib.Path("run.stablehlo").read_bytes()))
    logits = program.call(np.stack([np.asarray(Image.open(path)) for path in colours]))
    assert [NAMES[best] for best in np.asarray(logits).argmax(-1)] == classes
    # The same words find the run; other pixels are another run.
    capsys.readouterr()
    assert run(words) == 0
    assert last_json(capsys) == result
    assert Classifier.from_run("run").evaluate(_dataset()).accuracy == pytest.approx(accuracy)


def _dataset():
    from cnnjax import data

    return data.load_dataset("folder:photos")


def test_a_resumed_run_prepares_as_it_did_and_refuses_other_pixels(colours, capsys):
    words = [*FROZEN, "--workdir", "run"]
    assert run([*words, "--preprocess", "vgg16:keras"]) == 0
    pathlib.Path("run/result.json").unlink()  # as if it had been killed before its test
    assert run([*words, "--preprocess", "dataset"]) == 2
    assert (
        "holds a run with another configuration: preprocess 'vgg16:keras' there, 'dataset' here"
        in capsys.readouterr().err
    )
    assert run([*words, "--preprocess", "vgg16:keras", "--json"]) == 0
    assert last_json(capsys)["test_accuracy"] == pytest.approx(truth(colours)[1])


def test_the_file_says_how_unless_the_dataset_is_asked_for(colours, capsys):
    net = Classifier.from_file("hues:Colours", "keras.safetensors", preprocess="vgg16:keras", class_names=NAMES)
    net.save("keras.safetensors")
    assert run([*FROZEN, "--workdir", "one", "--json"]) == 0
    assert last_json(capsys)["test_accuracy"] == pytest.approx(truth(colours)[1])
    assert run(["eval", "hues:Colours", "--weights", "keras.safetensors", "--dataset", "folder:photos", "--json"]) == 0
    assert last_json(capsys)["accuracy"] == pytest.approx(truth(colours)[1])
    assert run([*FROZEN, "--preprocess", "dataset", "--workdir", "two", "--json"]) == 0
    text = capsys.readouterr()
    assert json.loads(text.out)["test_accuracy"] < truth(colours)[1] - 0.2
    assert "images: prepared by the dataset's own mean and std" in text.err
    # A run is a file of weights too, and knows its images.
    assert net.preprocess == pretrained.preprocess("vgg16:keras").of_size((12, 12, 3))


def test_a_file_that_says_nothing_is_said_to(colours, capsys):
    assert run([*FROZEN, "--workdir", "run"]) == 0
    assert "images: how they were for keras.safetensors is not known; by the dataset's" in capsys.readouterr().out
    assert run([*TRAIN, "--preprocess", "vgg16", "--workdir", "other"]) == 2
    assert "Give --weights FILE too" in only_line(capsys)


def test_grey_images_are_colours_to_a_net_that_was_made_for_these(colours, capsys):
    for path in pathlib.Path("photos").glob("*/*/*.png"):
        Image.open(path).convert("L").save(path)
    words = [*FROZEN, "--preprocess", "vgg16:keras", "--workdir", "run", "--json"]
    assert run(words) == 0
    text = capsys.readouterr()
    assert "images: grey, given to the net as colours\n" in text.err
    # All three channels alike, and so are the scores.
    assert json.loads(text.out)["test_loss"] == pytest.approx(np.log(3), rel=1e-3)
    words = ["eval", "hues:Colours", "--weights", "keras.safetensors", "--preprocess", "vgg16:keras"]
    assert run([*words, "--dataset", "folder:photos", "--json"]) == 0
    assert last_json(capsys)["loss"] == pytest.approx(np.log(3), rel=1e-3)
    assert run([*FROZEN, "--workdir", "plain", "--json"]) == 0  # by the dataset's own numbers, thrice
    assert json.loads(capsys.readouterr().out)["test_loss"] > 0


def test_colours_are_grey_to_a_net_that_was_made_for_grey(colours, capsys):
    pathlib.Path("ink.py").write_text(MODULE.replace("(12, 12, 3)", "(12, 12, 1)"))
    tree = {"first": {"kernel": jnp.array([[1.0, 0, -1]]), "bias": jnp.zeros(3)}}
    tree["logits"] = {"kernel": jnp.eye(3), "bias": jnp.zeros(3)}
    pretrained.save({"params": tree}, "ink.safetensors")
    words = [*FROZEN[:1], "ink:Colours", *FROZEN[2:-1], "ink.safetensors", "--workdir", "ink", "--json"]
    assert run(words) == 2
    assert "images have 3 channels, ink:Colours's weights were made for 1. Give --mean and --std" in (
        capsys.readouterr().err
    )
    assert run([*words, "--mean", "0.5", "--std", "0.25"]) == 0
    text = capsys.readouterr()
    assert "images: colours, given to the net as grey\n" in text.err
    means = [np.asarray(Image.open(path).convert("L"), np.float64).mean() / 255 for path in colours]
    z = (np.array(means) - 0.5) / 0.25
    labels = np.array([NAMES.index(path.parent.name) for path in colours])
    logits = np.stack([z, 0 * z, -z], -1)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels]
    assert json.loads(text.out)["test_loss"] == pytest.approx(losses.mean(), abs=2e-3)  # Pillow rounds its grey


def test_a_finished_run_says_that_its_data_have_changed(colours, capsys):
    words = [*FROZEN, "--dataset", "folder:photos", "--preprocess", "vgg16:keras", "--workdir", "run"]
    assert run(words) == 0
    listed = json.loads(pathlib.Path("run/splits.json").read_text())
    assert {part: len(files) for part, files in listed.items()} == {"train": 30, "validation": 12, "test": 30}
    assert sorted(f"photos/{file}" for file in listed["test"]) == [str(path) for path in colours]
    capsys.readouterr()
    assert run(words) == 0
    assert "warning" not in capsys.readouterr().out
    Image.open(colours[0]).rotate(180).save(colours[0])
    assert run(words) == 0
    assert "warning: its data have changed since; this is the result of" in capsys.readouterr().out
    pathlib.Path("photos").rename("gone")
    assert run(words) == 0
    assert "warning: its data can't be compared with" in capsys.readouterr().out


def test_a_new_heads_values_follow_the_seed(colours, capsys):
    pathlib.Path("photos/train/violet").mkdir()
    pathlib.Path("photos/validation/violet").mkdir()
    pathlib.Path("photos/test/violet").mkdir()
    for split in ("train", "validation", "test"):
        Image.open(colours[0]).save(f"photos/{split}/violet/0.png")
    kernels = []
    for seed in ("0", "1", "1"):
        assert run([*FROZEN, "--seed", seed, "--workdir", f"run{len(kernels)}"]) == 0
        assert "the file has 3 classes, the model 4: its head is not taken" in capsys.readouterr().out
        kernels.append(np.asarray(Classifier.from_run(f"run{len(kernels)}").variables["params"]["logits"]["kernel"]))
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01
    np.testing.assert_array_equal(kernels[1], kernels[2])


def test_weights_without_a_classifier_start_a_training_but_can_not_be_asked(colours, capsys):
    first = {"kernel": jnp.eye(3), "bias": jnp.zeros(3)}
    pretrained.save({"params": {"first": first}}, "bare.safetensors")
    assert run([*TRAIN, "--optimizer", "sgd", "--weights", "bare.safetensors", "--workdir", "run"]) == 0
    said = capsys.readouterr().out
    assert "weights: bare.safetensors: 2 initialised, 2 loaded\n" in said
    assert "weights: the file has no classifier" in said
    words = ["predict", "hues:Colours", "--weights", "bare.safetensors", "--preprocess", "vgg16", str(colours[0])]
    assert run(words) == 1
    assert "it has no classifier. Train one first: cnnjax train hues:Colours --weights" in only_line(capsys)


def test_names_given_at_conversion_are_kept(colours, capsys):
    pathlib.Path("names.txt").write_text("\n".join(NAMES))
    words = ["weights", "convert", "hues:Colours", "keras.safetensors", "named.safetensors", "--classes", "names.txt"]
    assert run(words) == 0
    ask = ["predict", "hues:Colours", "--preprocess", "vgg16:keras", str(colours[0]), "--json", "--weights"]
    capsys.readouterr()
    for file, names in (("named", set(NAMES)), ("keras", {"0", "1", "2"})):
        assert run([*ask, f"{file}.safetensors"]) == 0
        assert {each["class"] for each in last_json(capsys)["predictions"][0]["predictions"]} == names
    pathlib.Path("two.txt").write_text("a\nb")
    assert run([*words[:-1], "two.txt"]) == 1
    assert "the file has 3 classes, the model 2: its head is not taken" in only_line(capsys)
    assert run([*words[:-1], "two.txt", "--num-classes", "3"]) == 2
    assert "--classes: expected 3 names, as --num-classes says, got 2" in only_line(capsys)


def test_names_that_the_net_knows_by_others(colours, capsys):
    arrays = {"net.a.weight": np.eye(3) * 10 / 255, "net.a.bias": np.array([103.939, 116.779, 123.68]) * 10 / 255}
    arrays |= {"net.b.weight": np.eye(3), "net.b.bias": np.zeros(3), "other.w": np.ones(2)}
    pieces = safetensors.to_pieces({name: value.astype(np.float32) for name, value in arrays.items()})
    pathlib.Path("foreign.safetensors").write_bytes(b"".join(bytes(piece) for piece in pieces))
    words = ["eval", "hues:Colours", "--weights", "foreign.safetensors", "--dataset", "folder:photos", "--json"]
    words += ["--preprocess", "vgg16:keras", "--rules", "a=first", "b=logits"]
    assert run([*words, "--prefix", "net."]) == 0
    assert last_json(capsys)["accuracy"] == pytest.approx(truth(colours)[1])
    assert run(words) == 1
    assert "does not fit" in capsys.readouterr().err


def test_options_of_the_model_are_typed_kept_and_used_again(colours, capsys):
    words = [*TRAIN, "--no-tensorboard", "--set", "width=7", "scale=2", "--workdir", "run", "--json"]
    assert run(words) == 0
    assert last_json(capsys)["params"] == 3 * 7 + 7 + 7 * 3 + 3
    net = Classifier.from_run("run")
    assert (net.model.width, net.model.scale, type(net.model.scale)) == (7, 2.0, float)
    assert run([*words[:-5], "width=8", "--workdir", "run"]) == 2
    assert "model_options ['width=7', 'scale=2'] there, ['width=8'] here" in only_line(capsys)
    assert run([*TRAIN[:1], "hues:wide", *TRAIN[2:], "--no-tensorboard", "--workdir", "wide", "--json"]) == 0
    assert last_json(capsys)["params"] == 3 * 5 + 5 + 5 * 3 + 3
    assert run(["summary", "hues:wide", "--set", "width=2", "--json"]) == 0
    assert last_json(capsys)["totals"]["params"] == 3 * 2 + 2 + 2 * 10 + 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hues:Colours", "--set", "width=wide"], "--set width: expected int for hues:Colours, got 'wide'."),
        (["hues:Colours", "--set", "width=true"], "--set width: expected int for hues:Colours, got 'true'."),
        (["hues:Colours", "--set", "widht=3"], "unknown option of hues:Colours 'widht': did you mean 'width'?"),
        (["hues:Colours", "--set", "num_classes=3"], "unknown option of hues:Colours 'num_classes'"),
        (["hues:Colours", "--set", "width"], "--set: expected FIELD=VALUE, such as dropout=0, got 'width'."),
        (["hues:number"], "'hues:number' returns int, expected a Flax linen module."),
        (["hues:NAMES"], "cannot import model 'hues:NAMES'"),
        (["lenet5", "--set", "dropuot=0"], "unknown option of lenet5 'dropuot'"),
        (["resnet50:v3"], "unknown variant 'resnet50:v3': did you mean 'resnet50:v2'?"),
        (["hf:timm/resnet50.a1_in1k"], "hf download timm/resnet50.a1_in1k --local-dir DIR"),
    ],
)
def test_models_that_can_not_be_made_are_one_line(words, message, colours, capsys):
    for verb in (["summary"], ["receptive-field"], ["train", "--dataset", "folder:photos"]):
        assert run([verb[0], *words, *verb[1:]]) == 2
        assert message in only_line(capsys)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["eval", "run"], 2, "run is a run's workdir: type cnnjax eval --workdir run"),
        (["predict", "run", "a.png"], 2, "run is a run's workdir: type cnnjax predict --workdir run"),
        (["export", "run", "a.stablehlo"], 2, "run is a run's workdir: type cnnjax export --workdir run"),
        (["summary", "run"], 2, "unknown model 'run'"),
        (["predict", "--workdir", "run", "photos"], 1, "photos: it is a folder. Name its images: photos/*"),
        ([*TRAIN[:3], "kmnist"], 2, "save the images, one folder a class, and type --dataset folder:DIR"),
        ([*TRAIN[:3], "hf:mnist"], 2, "hf download mnist --repo-type dataset --local-dir DIR"),
        ([*TRAIN, "--weights", "hf:a/b"], 2, "hf download a/b --local-dir DIR"),
        ([*TRAIN, "--weights", "keras.safetensors", "--rules", "first"], 2, "--rules: expected OLD=NEW"),
        (["train", "hues:Colours", "--dataset", "folder:photos", "--lrate", "0.1"], 2, "did you mean --lr?"),
        (["train", "hues:Colours", "--dataset", "folder:photos", "--gpu", "0"], 2, "did you mean --devices?"),
        (["train", "hues:Colours", "--num-epochs", "3"], 2, "did you mean --epochs?"),
    ],
)
def test_what_to_type_is_said(words, code, message, colours, capsys):
    assert run([*FROZEN, "--workdir", "run"]) == 0
    capsys.readouterr()
    assert run(words) == code
    assert message in only_line(capsys)
