"""One trained net from wherever: what it predicts, how it scores, what it writes; all in Python."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax import export
from PIL import Image

import cnnjax
from cnnjax import Classifier, data, models, pretrained, training
from cnnjax.classifier import sources
from cnnjax.errors import CnnjaxError, UsageError
from cnnjax.pretrained import catalogue
from cnnjax.pretrained.preprocessing import Preprocess

RULE = pretrained.preprocess("vgg16:keras").of_size((12, 12, 3))
NAMES = ("red", "green", "blue")


class Colours(nn.Module):
    """A net that tells images by their mean colour."""

    num_classes: int = 3
    input_shape = (12, 12, 3)

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dense(3, name="first")(jnp.mean(x, axis=(1, 2)))
        return nn.Dense(self.num_classes, name="logits")(x)


def variables(first, bias):
    """Return those of a net whose first layer is the given one, and whose second one changes nothing."""
    layers = {"first": {"kernel": first, "bias": bias}, "logits": {"kernel": np.eye(3), "bias": np.zeros(3)}}
    return {"params": jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), layers)}


def photographs(count, seed=0):
    """Return images whose label is the channel that is a little brighter than the others, and the labels."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, 12, 12, 3)).astype(float)
    labels = np.arange(count) % 3
    for label in range(3):
        images[labels == label, ..., label] += random.normal(20, 12, (sum(labels == label), 1, 1))
    return np.clip(images, 0, 255).astype(np.uint8), labels.astype(np.int32)


def coloured_dataset():
    images, labels = photographs(90)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    split = data.Split("test", images, labels, [str(n) for n in range(90)], mean, std)
    info = data.DatasetInfo("colours", 3, NAMES, (12, 12, 3), mean, std, "here", {})
    return data.Dataset(split, split, split, info)


def scores(images):
    """Return the logits in double precision: the means of the channels, of pixels 0 to 1, times ten."""
    return 10 * images.astype(np.float64).mean(axis=(1, 2)) / 255


def right(labels, images):
    return float((scores(images).argmax(-1) == labels).mean())


@pytest.fixture
def net():
    """A net for Keras's images, blue first and with the mean taken off, that gives what `scores` gives."""
    kernel = np.fliplr(np.eye(3)) * 10 / 255
    bias = np.array([123.68, 116.779, 103.939]) * 10 / 255
    return Classifier(Colours(), variables(kernel, bias), RULE, NAMES)


def test_it_scores_what_its_pixels_give_on_a_dataset_with_other_statistics(net):
    dataset = coloured_dataset()
    metrics = net.evaluate(dataset)
    images, labels = photographs(90)
    logits = scores(images)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(90), labels]
    assert metrics.examples == 90
    assert metrics.accuracy == right(labels, images) < 1
    assert metrics.loss == pytest.approx(losses.mean(), rel=1e-4)
    assert metrics.confusion.sum() == 90


def test_training_begins_at_that_score_whatever_the_dataset_normalises_by(net):
    dataset, images = coloured_dataset(), photographs(90)
    state = net.create_state(dataset, optax.sgd(1e-9), key=jax.random.key(0), freeze="^first")
    for batch in data.batches(dataset.train, 30, key=jax.random.key(1), train=True):
        state, _ = training.train_step(state, batch)
    trained = Classifier(net.model, state.variables, net.preprocess, NAMES)
    assert trained.evaluate(dataset).accuracy == right(images[1], images[0])
    plain = Classifier(net.model, net.variables, None, NAMES).evaluate(dataset)
    assert plain.accuracy < 0.6 < right(images[1], images[0])  # by the dataset's own statistics, red first


def test_predictions_of_paths_pillows_images_and_arrays_are_the_same(net, tmp_path):
    image = photographs(1)[0][0]
    Image.fromarray(image).save(tmp_path / "a.png")
    want = np.exp(scores(image[None])[0])
    for images in (tmp_path / "a.png", [str(tmp_path / "a.png")], Image.fromarray(image), image, image[None]):
        (found,) = net.predict(images, top=2)
        assert len(found.classes) == 2
        got = dict(zip(found.classes, found.probabilities))
        assert all(got[name] == pytest.approx(want[NAMES.index(name)] / want.sum(), rel=1e-4) for name in got)
    sizes = [np.full((h, w, 3), 9, np.uint8) for h, w in ((12, 12), (40, 20), (13, 77))] * 7
    found = net.predict([*sizes, np.zeros((5, 5), np.uint8), np.zeros((5, 5, 4), np.uint8)])
    assert len(found) == 23
    assert len(str(found).splitlines()) == 23 * 5  # what was done, three classes, and that they are of one colour


def test_what_is_not_an_image_is_one_line(net, tmp_path):
    for image, message in (
        (np.zeros((4, 4, 3), np.float32), "expected a path, an image of Pillow's or uint8 pixels"),
        (np.ones((4, 4, 3)), r"Bring pixels of 0 to 1 to 0 to 255: \(255 \* x\)"),
        (np.full((4, 4, 3), 200), r"got int64 .*\. Of pixels 0 to 255, write x\.astype\('uint8'\)"),
        (np.zeros((3, 8, 8), np.uint8), r"Move the channels last: x\.transpose\(1, 2, 0\)"),
        (np.zeros((4, 4, 2), np.uint8), r"got uint8 of shape \(4, 4, 2\)"),
        (tmp_path / "none.png", "none.png"),
    ):
        with pytest.raises(CnnjaxError, match=message):
            net.predict([image])
    with pytest.raises(UsageError, match="top: expected at least 1"):
        net.predict(np.zeros((4, 4, 3), np.uint8), top=0)
    with pytest.raises(UsageError, match="how images are prepared is not known"):
        Classifier(net.model, net.variables, None, NAMES).predict(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UsageError, match="it has 3 classes, expected 2"):
        Classifier(Colours(num_classes=2), net.variables, RULE, ("a", "b")).evaluate(coloured_dataset())
    with pytest.raises(UsageError, match="in another order"):
        Classifier(net.model, net.variables, RULE, NAMES[::-1]).evaluate(coloured_dataset())
    with pytest.raises(UsageError, match="expected a whole dataset, got Split"):
        net.evaluate(coloured_dataset().test)


def test_a_file_keeps_the_preprocessing_and_the_names(net, tmp_path):
    net.save(tmp_path / "a.safetensors")
    again = Classifier.from_file(Colours(), tmp_path / "a.safetensors")
    assert (again.preprocess, again.class_names) == (RULE, NAMES)
    assert jax.tree.all(jax.tree.map(np.array_equal, again.variables, net.variables))
    assert sources.describe(tmp_path / "a.safetensors") == (RULE, NAMES)
    pretrained.save(net.variables, tmp_path / "b.safetensors")
    bare = Classifier.from_file(Colours(), tmp_path / "b.safetensors", preprocess="vgg16:keras")
    assert (bare.preprocess, bare.class_names) == (RULE, ("0", "1", "2"))  # of the net's own size


def test_a_new_head_leaves_the_rest_as_it_is(net):
    other = net.with_classes(("a", "b", "c", "d", "e"), key=jax.random.key(1))
    assert other.variables["params"]["logits"]["kernel"].shape == (3, 5)
    assert other.variables["params"]["first"] is not None
    np.testing.assert_array_equal(
        other.variables["params"]["first"]["kernel"], net.variables["params"]["first"]["kernel"]
    )
    kernels = [
        net.with_classes(range(5), key=jax.random.key(n)).variables["params"]["logits"]["kernel"] for n in (1, 1, 2)
    ]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


def test_a_program_gives_the_nets_logits(net, tmp_path):
    net.export(tmp_path / "a.stablehlo", platforms=["cpu"])
    program = export.deserialize(bytearray((tmp_path / "a.stablehlo").read_bytes()))
    images = photographs(5)[0]
    np.testing.assert_allclose(program.call(images), scores(images), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.onnx", r"a\.onnx: what is written is StableHLO, not ONNX\. Type cnnjax export \.\.\. a\.stablehlo"),
        ("a.tflite", "not TensorFlow Lite"),
        ("a.PT", "not PyTorch"),
        ("a.safetensors", "a program is not weights"),
        (".", "cannot write"),
    ],
)
def test_a_program_under_another_formats_name_is_refused(net, name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CnnjaxError, match=message):
        net.export(name)
    assert not list(tmp_path.iterdir())


def test_official_weights_by_one_call(tmp_path, monkeypatch):
    model = models.build("lenet5", num_classes=10)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    pretrained.save(jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1), shapes), tmp_path / "official.safetensors")
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path))
    digest = pretrained.sha256_of(tmp_path / "official.safetensors")
    for name, options in (("lenet5", {}), ("lenet5:notop", {"include_top": False})):
        file = catalogue.Published(
            name, "http://127.0.0.1:9/official.safetensors", "sha256", digest, "free", None, options
        )
        monkeypatch.setitem(catalogue._FILES, name, file)
    said = []
    net = cnnjax.Classifier.from_pretrained("lenet5", log=said.append)
    assert said == [f"{tmp_path / 'official.safetensors'}: free"]
    assert (net.class_names, net.preprocess) == (tuple(map(str, range(10))), None)
    with pytest.raises(UsageError, match="its official file has no classifier"):
        Classifier.from_pretrained("lenet5:notop")
    with pytest.raises(UsageError, match="did you mean 'lenet5:notop'"):
        Classifier.from_pretrained("lenet5:notup")
    with pytest.raises(UsageError, match="hf download timm/resnet50 --local-dir DIR"):
        Classifier.from_pretrained("hf:timm/resnet50")


def test_the_publisher_is_known_by_a_files_names(tmp_path):
    model = models.build("resnet18", num_classes=1000)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    pretrained.save(
        jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes),
        tmp_path / "a",
        names="torchvision",
        model=model,
    )
    assert sources.known_preprocess("resnet18", tmp_path / "a") == pretrained.preprocess("resnet18")
    other = model.clone(num_classes=7)
    shapes = jax.eval_shape(other.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    pretrained.save(
        jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes),
        tmp_path / "b",
        names="torchvision",
        model=other,
    )
    assert sources.known_preprocess("resnet18", tmp_path / "b") is None


def test_grey_becomes_colours_and_colours_grey_as_pillow_has_it():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 9, 7, 3), np.uint8)
    grey = Preprocess(resize=7, crop=7, channels="grey", mean=(0.0,), std=(1 / 255,))
    want = np.asarray(Image.fromarray(pixels[0]).convert("L"), np.float32)[None, ..., None]
    np.testing.assert_allclose(grey.normalize(pixels), want, atol=0.51)  # Pillow rounds
    colours = np.asarray(RULE.normalize(want))
    np.testing.assert_allclose(colours, np.repeat(want, 3, -1) - np.array([103.939, 116.779, 123.68]), atol=1e-4)


def test_a_path_of_a_run_is_described(tmp_path):
    assert sources.describe(tmp_path) == (None, None)
    (pathlib.Path(tmp_path) / "text.pth").write_text("{}")
    assert sources.describe(tmp_path / "text.pth") == (None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "resnet50"}, r"linen module as model, got str. Write Classifier.from_pretrained\('resnet50'\)"),
        ({"variables": [1]}, r"variables as \{'params': .*\}, got list. Give state.variables"),
        ({"variables": {"kernel": 1}}, r"variables as \{'params': .*\}, got \['kernel'\]"),
        ({"preprocess": 5}, r"preprocess\(NAME\), its name, or None as preprocess, got int"),
        ({"preprocess": "resnet50:kears"}, r"unknown .*'resnet50:kears': did you mean 'resnet50"),
        ({"class_names": "red"}, "class_names as a list of texts in the order of the logits, got str"),
        ({"class_names": None}, "class_names as a list of texts in the order of the logits, got NoneType"),
        ({"class_names": [0, 1, 2.5]}, r"expected texts or numbers as class_names, got 2.5"),
        ({"class_names": ("a", "b")}, "expected 3 class_names, one a logit, got 2"),
        ({"class_names": (*NAMES, "violet")}, "expected 3 class_names, one a logit, got 4"),
    ],
)
def test_a_part_that_is_something_else_is_told_in_one_sentence(change, message):
    parts = {"model": Colours(), "variables": variables(np.eye(3), np.zeros(3)), "preprocess": RULE}
    with pytest.raises(UsageError, match=message):
        Classifier(**{**parts, "class_names": NAMES, **change})


def test_a_preprocessings_name_and_a_list_of_names_are_parts_too():
    net = Classifier(Colours(), variables(np.eye(3), np.zeros(3)), "vgg16:keras", list(NAMES))
    assert (net.preprocess, net.class_names) == (RULE, NAMES)


def test_weights_are_written_as_what_their_name_says(tmp_path):
    net = Classifier(Colours(), variables(np.eye(3), np.zeros(3)), RULE, NAMES)
    for path, message in ((tmp_path / "net.txt", "expected another ending, .safetensors"), ("/dev/null", "a device")):
        with pytest.raises(UsageError, match=message):
            net.save(path)
    assert list(tmp_path.iterdir()) == []
    assert not pathlib.Path("/dev/null").is_file()
