"""ImageNet as TFDS prepares it, in small."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import batches, describe_sources, imagenet, load_dataset, named_sets, prepare, prepared
from cnnjax.data.prepared import Columns, Records
from cnnjax.data.streamed import StreamedSplit
from cnnjax.errors import CnnjaxError, UsageError
from tests.data import photos

SPLITS = {"train": photos.examples(40), "validation": photos.examples(12, seed=1)}
TFDS_FILES = "imagenet2012-{}.array_record-00000-of-00001"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    return photos.write_imagenet(root, SPLITS)


@pytest.fixture
def small(monkeypatch):
    """Let ImageNet have as many examples as we do, and four of them for validation."""
    entry = photos.entry(SPLITS, validation=4)
    monkeypatch.setitem(named_sets._ENTRIES, "imagenet2012", lambda: entry)


@pytest.fixture
def copied(written, small, tmp_path):
    """Return a copy to damage."""
    folder = tmp_path / "imagenet2012" / "5.1.0"
    folder.mkdir(parents=True)
    for path in written.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def load(folder, **options):
    return load_dataset("imagenet2012", data_dir=folder.parent.parent, **options)


def test_every_example_is_in_one_split_with_its_label(written, small):
    data = load(written)
    assert (len(data.train), len(data.validation), len(data.test)) == (36, 4, 12)
    for splits, theirs in (((data.train, data.validation), "train"), ((data.test,), "validation")):
        found = {text: label for split in splits for text, label in zip(split.ids, split.labels.tolist())}
        assert found == {name: label for name, _, label in SPLITS[theirs]}
    assert all(isinstance(split, StreamedSplit) for split in (data.train, data.validation, data.test))


def test_validation_is_the_same_examples_whatever_else_is_asked_for(written, small):
    few, many = load(written, validation=3), load(written, validation=9, image_size=32)
    assert set(few.validation.ids) < set(many.validation.ids)
    assert load(written, validation=3).validation.ids == few.validation.ids
    assert not set(many.validation.ids) & set(many.train.ids)
    assert many.test.ids == few.test.ids
    for wrong in (-1, 40):
        with pytest.raises(UsageError, match=f"expected 0 to 39 examples of .*'s 40 training examples, got {wrong}"):
            load(written, validation=wrong)


def test_images_are_pillows_and_normalised_with_imagenets_constants(written, small):
    data = load(written, image_size=(24, 20), resize_size=28)
    (batch,) = batches(data.test, 12)
    by_name = {name: content for name, content, _ in SPLITS["validation"]}
    for image, name in zip(np.array(batch.image), data.test.ids):
        picture = Image.open(io.BytesIO(by_name[name])).convert("RGB")
        short = min(picture.size)
        whole = picture.resize((28 * picture.width // short, 28 * picture.height // short), Image.BILINEAR)
        left, top = round((whole.width - 20) / 2), round((whole.height - 24) / 2)
        wanted = np.asarray(whole.crop((left, top, left + 20, top + 24))) / 255
        wanted = (wanted - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        np.testing.assert_allclose(image, wanted, atol=1e-5)


def test_what_is_known_of_it(written, small):
    info = load(written).info
    assert info.image_shape == load(written).train.image_shape == (224, 224, 3)
    assert info.num_classes == len(info.class_names) == 1000
    assert info.class_names[0] == "n01440764"  # tench
    assert info.source == (
        f"{written} (not prepared by cnnjax; read as needed; features and numbers of examples verified)"
    )
    assert load(written).test.crops.resize == 256
    assert load(written, image_size=299, resize_size=342).test.crops.resize == 342
    assert load(written, image_size=112).test.crops.resize == 128


def test_training_parts_are_random_and_come_again(written, small):
    import jax

    data = load(written, image_size=16)
    first, again, other = (
        np.array(next(batches(data.train, 8, key=jax.random.key(seed), train=True)).image) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_entry_is_tfds_own():
    import tensorflow_datasets as tfds

    entry, stock = imagenet.entry(), tfds.builder_cls("imagenet2012")
    assert str(stock.VERSION) == entry.version
    assert {str(version) for version in stock.SUPPORTED_VERSIONS} >= set(entry.older_versions)
    names = tfds.features.ClassLabel(names_file=tfds.core.tfds_path("datasets/imagenet2012/labels.txt")).names
    assert tuple(names) == entry.class_names
    assert len(entry.class_names) == 1000
    assert sum(entry.counts.values()) == 1331167


def test_an_older_version_is_used_where_there_is_no_newer_one(small, tmp_path):
    path = photos.write_imagenet(tmp_path, SPLITS, version="5.0.0")
    assert prepare("imagenet2012", data_dir=tmp_path) == path
    rows = {row["name"]: row for row in describe_sources(tmp_path)}
    assert rows["imagenet2012"]["prepared"] == str(path)
    assert (rows["imagenet2012"]["train"], rows["imagenet2012"]["test"]) == (40, 12)
    assert rows["imagenet2012"]["sources"] == [
        "manual download from https://image-net.org/download-images, after registering"
    ]


def test_the_test_set_alone_is_enough_to_test_on(small, tmp_path):
    photos.write_imagenet(tmp_path, {"validation": SPLITS["validation"]})
    data = load_dataset("imagenet2012", data_dir=tmp_path, image_size=8)
    assert (len(data.train), len(data.validation), len(data.test)) == (0, 0, 12)
    assert sum(int(np.sum(batch.mask)) for batch in batches(data.test, 5)) == 12
    with pytest.raises(UsageError, match="the train split is empty"):
        batches(data.train, 4, train=True)


@pytest.mark.parametrize("use", [load_dataset, prepare])
def test_what_nobody_may_fetch_says_how_to_get_it(use, tmp_path):
    with pytest.raises(
        CnnjaxError, match=f"^imagenet2012 is not prepared in {tmp_path}, .*: register at https"
    ) as said:
        use("imagenet2012", data_dir=tmp_path)
    assert str(said.value).endswith("name it: cnnjax data prepare imagenet2012 --source-dir FOLDER")
    assert "\n" not in str(said.value)
    assert not os.listdir(tmp_path)


def edit_info(path, **changes):
    info = json.loads((path / "dataset_info.json").read_text())
    (path / "dataset_info.json").write_text(json.dumps(info | changes))


def cut_records(path):
    file = path / TFDS_FILES.format("train")
    file.write_bytes(file.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: edit_info(path, fileFormat="tfrecord"), "prepared as tfrecord, .* tfds convert_format --dataset"),
        (lambda path: (path / "features.json").unlink(), "damaged"),
        (lambda path: (path / "label.labels.txt").write_text("a\nb\n"), "expected the 1,000 classes .* got others"),
        (lambda path: (path / TFDS_FILES.format("train")).unlink(), "damaged .* Delete it and prepare imagenet2012"),
        (lambda path: edit_info(path, splits=[]), r"expected a split train or validation, got \[\]"),
    ],
)
@pytest.mark.parametrize("use", [load_dataset, prepare])
def test_what_is_wrong_with_a_directory_is_said_in_one_line(copied, use, change, message):
    change(copied)
    with pytest.raises(CnnjaxError, match=f"^{copied}.*{message}") as caught:
        use("imagenet2012", data_dir=copied.parent.parent)
    assert "\n" not in str(caught.value)


def test_another_number_of_examples_is_another_dataset(written, monkeypatch):
    with pytest.raises(CnnjaxError, match="expected 1,281,167 train examples of imagenet2012, got 40"):
        load(written)


def test_damaged_records_are_named(copied):
    cut_records(copied)
    with pytest.raises(CnnjaxError, match=f"^{copied}.*") as caught:
        list(batches(load(copied, image_size=8).train, 4))
    assert "\n" not in str(caught.value)


def test_a_damaged_image_is_named(small, tmp_path):
    name, data, label = SPLITS["validation"][4]
    broken = [*SPLITS["validation"][:4], (name, data[:-600], label), *SPLITS["validation"][5:]]
    path = photos.write_imagenet(tmp_path, {"train": SPLITS["train"], "validation": broken})
    with pytest.raises(CnnjaxError, match=rf"^{path}: test example \d+ \({name}\): .*truncated"):
        list(batches(load(path, image_size=8).test, 4))


def test_labels_out_of_range_are_refused():
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    example.features.feature["image"].bytes_list.value.append(b"x")
    example.features.feature["label"].int64_list.value.append(1000)
    example.features.feature["file_name"].bytes_list.value.append(b"a.JPEG")
    with pytest.raises(CnnjaxError, match=r"here: example 0 \(a.JPEG\): label 1000 is out of range \[0, 1000\)"):
        Records("here:", [example.SerializeToString()], (1000,), Columns(id="file_name")).fetch(0)
    with pytest.raises(CnnjaxError, match=r"here: example 0: cannot be read"):
        Records("here:", [b"\xff\xff"], (1000,), Columns(id="file_name")).fetch(0)


def test_as_many_files_may_be_open_as_there_are(monkeypatch):
    import resource

    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: asked.append(limits))
    for number in (1000, 1344, 9999):
        prepared.allow_open_files(number - 256)
    assert asked == [(1344, 4096), (4096, 4096)]
