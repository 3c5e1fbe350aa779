"""`eval` and `predict` with files of weights, in place of a run's workdir."""

import hashlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from cnnjax import data, models, pretrained, runs, training
from cnnjax.classifier import Classifier, sources
from cnnjax.cli.main import run
from cnnjax.pretrained import catalogue
from tests.cli.commands import last_json, only_line, read_csv
from tests.pretrained.nets import randomised
from tests.pretrained.server import serving

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


@pytest.fixture
def weights(workdir, tmp_path):
    """The trained LeNet-5 of the run, as a file of weights."""
    state = training.create_state(
        models.build("lenet5", num_classes=10), optax.identity(), (28, 28, 1), key=jax.random.key(0)
    )
    newest = runs.load_newest(workdir / "checkpoints")
    path = tmp_path / "lenet5.safetensors"
    pretrained.save(runs.restore_variables(state, newest[1]).variables, path)
    return path


@pytest.fixture
def mean_net(tmp_path, monkeypatch):
    """A net of the user's own that tells images by their mean colour, in a file: returns its kernel."""
    (tmp_path / "colours.py").write_text(MODULE)
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    kernel = 3 * np.eye(3, dtype=np.float32)
    variables = {"params": {"logits": {"kernel": jnp.array(kernel), "bias": jnp.zeros(3)}}}
    pretrained.save(variables, tmp_path / "colours.safetensors")
    monkeypatch.chdir(tmp_path)
    return kernel


def test_eval_of_a_file_is_eval_of_its_run(workdir, weights, tmp_path, capsys):
    words = ["eval", "lenet5", "--weights", str(weights), "--dataset", "digits", "--json"]
    assert run([*words, "--dump-predictions", str(tmp_path / "p.csv")]) == 0
    result = last_json(capsys)
    assert run(["eval", "--workdir", str(workdir), "--json"]) == 0
    want = last_json(capsys)
    assert result["loss"] == pytest.approx(want["loss"], rel=1e-5)
    assert {**result, "loss": 0} == {**want, "loss": 0}
    rows = read_csv(tmp_path / "p.csv")
    assert sum(row["label"] == row["prediction"] for row in rows) == result["accuracy"] * len(rows)


@pytest.mark.slow
def test_eval_heeds_a_mean_and_a_std(weights, capsys):
    info = data.load_dataset("digits").info
    rule = ["--mean", str(info.mean[0]), "--std", str(info.std[0]), "--json"]
    words = ["eval", "lenet5", "--weights", str(weights), "--dataset", "digits"]
    assert run([*words, "--json"]) == 0
    want = last_json(capsys)
    assert run([*words, *rule]) == 0
    got = last_json(capsys)
    assert got["loss"] == pytest.approx(want["loss"], rel=1e-3)
    assert got["confusion"] == want["confusion"]
    assert run([*words, "--mean", "0.9", "--std", "0.1", "--json"]) == 0
    assert last_json(capsys)["loss"] > 2 * want["loss"]  # a rule that is not heeded would go unnoticed


def test_a_net_of_grey_images_is_asked_with_a_mean_and_a_std(weights, tmp_path, capsys):
    rule = ["--mean", "0.3", "--std", "0.4", "--crop", "28", "--json"]
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    Image.fromarray(np.stack([pixels] * 3, -1)).resize((70, 56)).save(tmp_path / "wide.png")
    (tmp_path / "names.txt").write_text("\n".join(map(str, range(10))))
    words = ["predict", "lenet5", "--weights", str(weights), "--classes", str(tmp_path / "names.txt"), "--top", "10"]
    assert run([*words, *rule, str(tmp_path / "grey.png"), str(tmp_path / "wide.png")]) == 0
    grey, wide = last_json(capsys)["predictions"]
    model = models.build("lenet5", num_classes=10)
    x = (pixels[None, :, :, None] / np.float32(255) - np.float32(0.3)) / np.float32(0.4)
    want = np.array(jax.nn.softmax(model.apply(pretrained.load(model, weights)[0], x))[0])
    found = {p["class"]: p["probability"] for p in grey["predictions"]}
    np.testing.assert_allclose([found[str(n)] for n in range(10)], want, rtol=1e-3, atol=1e-6)
    assert wide["done"] == "70×56 RGB → grey → 35×28, centre 28×28"


def test_predict_prepares_images_as_the_published_net_has_them(mean_net, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    Image.fromarray(pixels).save("noise.png")
    red = np.zeros((256, 256, 3), np.uint8)
    red[..., 0] = 255
    Image.fromarray(red).save("red.png")
    words = ["predict", "colours:Mean", "--weights", "colours.safetensors", "--preprocess", "vgg16:keras"]
    assert run([*words, "--classes", "names.txt", "--json", "--top", "3", "noise.png", "red.png"]) == 0
    noise, plain = last_json(capsys)["predictions"]
    # Channels are blue, green, red: what the file calls red is what is blue.
    assert plain["predictions"][0]["class"] == "blue"
    prepared = np.array(pretrained.preprocess("vgg16:keras")(pixels[None]))
    want = np.array(jax.nn.softmax(prepared.mean(axis=(1, 2)) @ mean_net)[0])
    got = {p["class"]: p["probability"] for p in noise["predictions"]}
    np.testing.assert_allclose([got["red"], got["green"], got["blue"]], want, rtol=1e-3, atol=1e-6)
    assert noise["done"] == "400×300 RGB, as it is → 341×256, centre 224×224"


def test_a_bad_image_leaves_the_others(mean_net, capsys):
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save("black.png")
    with open("text.png", "w") as file:
        file.write("no image")
    words = ["predict", "colours:Mean", "--weights", "colours.safetensors", "--preprocess", "resnet50"]
    assert run([*words, "--classes", "names.txt", "--json", "text.png", "black.png"]) == 1
    text = capsys.readouterr()
    first, second = json.loads(text.out)["predictions"]
    assert "text.png: not an image" in first["error"]
    assert len(second["predictions"]) == 3
    assert "one colour" in second["hint"]


@pytest.fixture
def photographs(mean_net):
    """Photographs of three colours and of different sizes, in one folder a class; the net is not sure of them."""
    variables = {"params": {"logits": {"kernel": 0.01 * jnp.eye(3), "bias": jnp.array([0.1, 0.2, 0.3])}}}
    pretrained.save(variables, "colours.safetensors")
    random = np.random.default_rng(0)
    for label, name in enumerate(("blue", "green", "red")):
        for split, count in (("train", 1), ("test", 2)):
            folder = pathlib.Path("photos", split, name)
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 120, (230 + 17 * number, 240 + 9 * label, 3), np.uint8)
                pixels[..., label] += 100
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return ["folder:photos", sorted(str(path) for path in pathlib.Path("photos", "test").glob("*/*.png"))]


def test_eval_cuts_photographs_of_all_sizes_as_predict_does(photographs, capsys):
    dataset, paths = photographs
    common = ["colours:Mean", "--weights", "colours.safetensors", "--preprocess", "vgg16:keras"]
    assert run(["eval", *common, "--dataset", dataset, "--dump-predictions", "p.csv", "--json"]) == 0
    result = last_json(capsys)
    assert run(["predict", *common, "--classes", "names.txt", "--top", "3", "--json", *paths]) == 0
    names = pathlib.Path("names.txt").read_text().split()
    losses, correct = [], 0
    for image in last_json(capsys)["predictions"]:
        share = {entry["class"]: entry["probability"] for entry in image["predictions"]}
        label = ("blue", "green", "red").index(image["image"].split("/")[2])
        losses.append(-np.log(share[names[label]]))
        correct += max(share, key=share.__getitem__) == names[label]
    assert result["examples"] == len(paths) == 6
    assert result["loss"] == pytest.approx(np.mean(losses), rel=1e-3)  # both in eight bits, resized by Pillow there
    assert result["accuracy"] == pytest.approx(correct / 6)
    assert sorted(row["id"] for row in read_csv(pathlib.Path("p.csv"))) == [path[len("photos/") :] for path in paths]


def test_eval_without_a_rule_takes_the_size_that_the_net_is_for(photographs, capsys):
    words = ["eval", "colours:Mean", "--weights", "colours.safetensors", "--dataset", photographs[0], "--json"]
    assert run(words) == 0
    text = capsys.readouterr()
    assert "images differ in size: cut to (224, 224), as colours:Mean was published for (--image-size)" in text.err
    assert json.loads(text.out)["examples"] == 6
    assert run([*words, "--image-size", "32"]) == 0
    assert last_json(capsys)["examples"] == 6
    assert run([*words, "--image-size", "32", "--preprocess", "vgg16:keras"]) == 2
    assert "--image-size: colours.safetensors has its own rule, 224 pixels. Leave it out." in only_line(capsys)
    assert run([*words, "--image-size", "0"]) == 2
    assert "--image-size: expected at least 1, got 0" in only_line(capsys)


def test_weights_that_are_not_numbers_are_said(photographs, capsys):
    variables = {"params": {"logits": {"kernel": jnp.full((3, 3), jnp.nan), "bias": jnp.zeros(3)}}}
    pretrained.save(variables, "colours.safetensors")
    common = ["colours:Mean", "--weights", "colours.safetensors", "--preprocess", "vgg16:keras", "--json"]
    assert run(["predict", *common, "--classes", "names.txt", photographs[1][0]]) == 1
    text = capsys.readouterr()
    assert "the net gives no numbers for it (NaN)" in json.loads(text.out)["predictions"][0]["error"]
    assert run(["eval", *common, "--dataset", photographs[0]]) == 1
    *_, line = capsys.readouterr().err.splitlines()  # behind what is said of the folder
    assert "the loss over 6 examples is nan" in line


def test_the_official_file_is_fetched_resumed_and_kept(weights, tmp_path, monkeypatch, capsys):
    content = weights.read_bytes()
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "cache"))
    with serving(content) as server:
        address = f"http://127.0.0.1:{server.server_port}/official.safetensors"
        digest = hashlib.sha256(content).hexdigest()[:8]
        file = catalogue.Published("lenet5", address, "sha256", digest, "public domain")
        monkeypatch.setitem(catalogue._FILES, "lenet5", file)
        words = ["eval", "lenet5", "--weights", "imagenet", "--dataset", "digits", "--json"]
        server.limit = 100_000
        assert run(words) == 1
        line = only_line(capsys)
        assert f"cut off {len(content) - 100_000:,} bytes before the end" in line
        assert f"Get {address} and put it at {tmp_path / 'cache' / 'official.safetensors'}" in line
        server.limit = None
        assert run(words) == 0
        assert last_json(capsys)["examples"] == 355
        assert run(words) == 0
        assert server.requests == [None, "bytes=100000-"]


def test_imagenet_is_the_official_file_wherever_weights_are_named(tmp_path, monkeypatch, capsys):
    variables = randomised(models.build("lenet5"))
    pretrained.save(variables, tmp_path / "official.safetensors")
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path))
    digest = pretrained.sha256_of(tmp_path / "official.safetensors")
    for name in ("lenet5", "lenet5:v2"):
        file = catalogue.Published(name, "http://127.0.0.1:9/official.safetensors", "sha256", digest, "public domain")
        monkeypatch.setitem(catalogue._FILES, name, file)
        assert run(["weights", "convert", name, "imagenet", str(tmp_path / "o.safetensors"), "--json"]) == 0
        assert last_json(capsys)["report"]["path"] == str(tmp_path / "official.safetensors")
    loaded, _ = pretrained.load(models.build("lenet5"), tmp_path / "o.safetensors")
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, variables))
    words = ["receptive-field", "lenet5", "--measured", "--samples", "1"]
    assert run([*words, "--weights", str(tmp_path / "o.safetensors"), "--json"]) == 0
    want = last_json(capsys)["measured"]
    assert run([*words, "--weights", "imagenet", "--json"]) == 0
    assert last_json(capsys)["measured"] == want


def test_which_preprocessing_goes_with_a_file():
    assert sources.rule_name("vgg16", "torchvision", 1000) == "vgg16"
    assert sources.rule_name("vgg16", "keras", 1000) == "vgg16:keras"
    assert sources.rule_name("resnet50_v1", "keras", 1000) == "resnet50_v1"
    assert sources.rule_name("resnet50:v2", "torchvision", 1000) == "resnet50:v2"
    assert sources.rule_name("resnet50", "cnnjax", 1000) is None
    assert sources.rule_name("lenet5", "torchvision", 1000) is None
    assert sources.rule_name("vgg16", "your rules and torchvision", 0) == "vgg16"
    assert sources.rule_name("vgg16", "torchvision", 7) is None  # somebody else's training


def test_a_net_with_its_own_rule_sees_a_datasets_pixels():
    rule = pretrained.preprocess("resnet50_v1")
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    split = data.Split("test", images, np.zeros(2, np.int32), ["a", "b"], mean, std)
    info = data.DatasetInfo("two", 1000, tuple(map(str, range(1000))), (8, 8, 3), mean, std, "here", {})
    net = Classifier(models.build("resnet20", num_classes=1000), {"params": {}}, rule, info.class_names)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(net.model), "apply", lambda self, variables, x, **_: seen.append(x))
        state = net.create_state(data.Dataset(split, split, split, info), optax.identity(), key=jax.random.key(0))
        state.apply_fn({}, data.prepare_images(images, mean=mean, std=std), train=False)
    np.testing.assert_allclose(seen[0], rule.normalize(images), atol=1e-3)


@pytest.mark.parametrize(
    ("words", "code", "match"),
    [
        (["predict", "a.png"], 2, "expected either --workdir DIR IMAGE... or MODEL --weights FILE IMAGE..."),
        (["predict", "--workdir", "x", "--weights", "y", "a.png"], 2, "expected either --workdir"),
        (["predict", "resnet18", "--weights", "none.pth"], 2, "expected MODEL and at least one IMAGE with --weights"),
        (["predict", "resnet18", "--weights", "none.pth", "a.png"], 1, "none.pth: No such file"),
        (["predict", "resnet18", "--weights", "w", "--classes", "no.txt", "a.png"], 1, "no.txt: No such file"),
        (["eval", "resnet18", "--weights", "w"], 2, "expected MODEL and --dataset too"),
        (["eval"], 2, "expected either --workdir DIR or MODEL --weights FILE --dataset NAME"),
        (["eval", "lenet5", "--workdir", "x"], 2, "has its own model and data"),
        (["eval", "lenet5", "--weights", "none.h5", "--dataset", "digits"], 1, "none.h5: No such file"),
        (
            ["eval", "resnet18", "--weights", "w", "--dataset", "digits"],
            1,
            "w: No such file",
        ),
        (["predict", "lenet5", "--weights", "w", "--preprocess", "resnet18", "a"], 2, "of 3 channels, lenet5 takes 1."),
        (["predict", "lenet5", "--weights", "w", "--mean", "0", "a"], 2, "expected --mean and --std together"),
        (["predict", "lenet5", "--weights", "w", "--mean", "0,1", "--std", "1", "a"], 2, "takes (1), separated by"),
        (["predict", "lenet5", "--weights", "w", "--mean", "0", "--std", "0", "a"], 2, "--std: expected numbers above"),
        (["predict", "lenet5", "--weights", "w", "--crop", "9", "a"], 2, "expected --mean and --std together"),
        (
            ["predict", "--workdir", "x", "--std", "1", "a"],
            2,
            "leave out --preprocess, --mean, --std, --crop, --classes",
        ),
        (["eval", "--workdir", "x", "--mean", "1"], 2, "leave out MODEL, --dataset, --image-size, --preprocess"),
        (["predict", "vgg16:features", "--weights", "imagenet", "a.png"], 2, "its official file has no classifier"),
        (["predict", "lenet5", "--weights", "imagenet", "a.png"], 2, "unknown published weights 'lenet5'"),
    ],
)
def test_mistakes_are_one_line(words, code, match, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(words) == code
    assert match in only_line(capsys)


@pytest.mark.parametrize("words", [["predict", "M", "a.png"], ["export", "M", "a.bin"]])
def test_names_of_classes_are_one_a_class(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [*words, "--weights", "w", "--classes", "names.txt"]
    contents = {"red\ngreen\nblue\ngreen\n": (2, "'green' is in lines 2 and 4"), "": (2, "it is empty")}
    for content, (code, message) in {**contents, "\udcff": (1, "expected a text file with a name a line")}.items():
        (tmp_path / "names.txt").write_bytes(content.encode(errors="surrogateescape"))
        assert run(words) == code
        assert message in only_line(capsys)


def test_files_that_do_not_go_with_the_question(weights, mean_net, capsys):
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save("black.png")
    words = ["predict", "colours:Mean", "--weights", "colours.safetensors", "black.png"]
    assert run([*words, "--classes", "names.txt"]) == 2
    assert "how images are prepared for colours.safetensors is not known. Give --preprocess NAME" in only_line(capsys)
    # Classes without names are numbers.
    assert run([*words, "--preprocess", "resnet50", "--json"]) == 0
    found = last_json(capsys)["predictions"][0]["predictions"]
    assert {each["class"] for each in found} == {"0", "1", "2"}
    pathlib.Path("names.txt").write_text("a\nb\n")
    assert run([*words, "--preprocess", "resnet50", "--classes", "names.txt"]) == 1
    assert "it has another number of classes than 2: 3" in only_line(capsys)
    assert (
        run(["predict", "colours:Mean", "--weights", "colours.safetensors", "--preprocess", "resnet5", "black.png"])
        != 0
    )
    assert run(["eval", "lenet5", "--weights", str(weights), "--dataset", "mnits"]) == 2
