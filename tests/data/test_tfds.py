"""Sets of any name, each written through TFDS itself, and what TFDS's own reader says of them."""

import io
import json
import struct
import sys
import types

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from cnnjax.data import Split, StreamedSplit, batches, load_dataset, named_sets, prepare, resolve, tfds_names, tfds_sets
from cnnjax.data.images import load_image
from cnnjax.errors import CnnjaxError, UsageError
from tests.data.photos import jpeg, picture
from tests.data.tfds_builders import build, png

F = tfds.features


def grey(count, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (count, 8, 6), dtype=np.uint8)
    return [{"image": png(image), "label": n % 3} for n, image in enumerate(images)]


GREY = {"image": F.Image(shape=(8, 6, 1)), "label": F.ClassLabel(num_classes=3)}
SIZES = [(20, 30), (30, 20), (24, 24), (11, 40)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return a folder with four sets: grey, colour of mixed sizes, labels that are texts, and 1,000 classes."""
    root = tmp_path_factory.mktemp("tfds")
    build(root, "plain", GREY, {"train": grey(40), "test": grey(10, seed=1)})
    colour = {"photo": F.Image(encoding_format="jpeg"), "kind": F.ClassLabel(num_classes=2), "file_name": F.Text()}
    rows = [{"photo": jpeg(picture(SIZES[n % 4], n)), "kind": n % 2, "file_name": f"{n}.jpg"} for n in range(20)]
    build(root, "mixed", colour, {"train": rows[:14], "validation": rows[14:]}, version="2.1.0")
    named = {"image": F.Image(shape=(4, 4, 3)), "label": F.ClassLabel(names=["owl", "cat", "newt"]), "extra": F.Text()}
    pixels = np.random.default_rng(5).integers(0, 256, (30, 4, 4, 3), dtype=np.uint8)
    words = [
        {"image": png(image), "label": ("owl", "cat", "newt")[n % 3], "extra": "x"} for n, image in enumerate(pixels)
    ]
    build(root, "named", named, {"train": words}, configs=("small",))
    many = {"image": F.Image(shape=(2, 2, 1)), "label": F.ClassLabel(num_classes=1000)}
    small = [{"image": png(np.full((2, 2), n % 256, np.uint8)), "label": n} for n in range(1000)]
    build(root, "many", many, {"train": small, "test": small[:50]})
    return root


def stored(root, name, split, image="image", label="label"):
    """Return images and labels as TFDS's own reader gives them."""
    builder = tfds.builder_from_directory(builder_dir=str(next((root / name).rglob("dataset_info.json")).parent))
    found = builder.as_data_source(split)
    return [example[image] for example in found], [int(example[label]) for example in found]


def pixels(split):
    return {(image.tobytes(), int(label)) for image, label in zip(split.images, split.labels)}


def test_a_grey_set_is_what_tfds_reads(root):
    data = load_dataset("tfds:plain", data_dir=root)
    assert all(isinstance(split, Split) for split in (data.train, data.validation, data.test))
    assert (len(data.train), len(data.validation), len(data.test)) == (34, 6, 10)
    assert data.info.image_shape == (8, 6, 1)
    assert data.info.class_names == ("0", "1", "2")
    images, labels = stored(root, "plain", "test")
    np.testing.assert_array_equal(data.test.images, images)
    assert data.test.labels.tolist() == labels
    images, labels = stored(root, "plain", "train")
    everything = {(image.tobytes(), label) for image, label in zip(images, labels)}
    assert pixels(data.train) | pixels(data.validation) == everything
    assert not pixels(data.train) & pixels(data.validation)
    np.testing.assert_allclose(data.info.mean, np.mean(images) / 255, rtol=1e-12)
    np.testing.assert_allclose(data.info.std, np.std(images) / 255, rtol=1e-12)
    assert next(batches(load_dataset("tfds:plain", data_dir=root, image_size=12).test, 4)).image.shape == (4, 12, 12, 1)


def test_parts_in_tfds_words(root):
    spec = "tfds:plain:1.0.0?train=train[:90%]&validation=train[90%:]"
    data = load_dataset(spec, data_dir=root)
    for split, words in ((data.train, "train[:90%]"), (data.validation, "train[90%:]"), (data.test, "test")):
        images, labels = stored(root, "plain", words)
        np.testing.assert_array_equal(split.images, images)
        assert split.labels.tolist() == labels
    assert (len(data.train), len(data.validation)) == (36, 4)
    np.testing.assert_allclose(data.info.mean, np.mean(stored(root, "plain", "train[:90%]")[0]) / 255, rtol=1e-12)
    joined = load_dataset("tfds:plain?train=train[4:]+test[5:]&test=test[:5]", data_dir=root, validation=0)
    assert (len(joined.train), len(joined.validation), len(joined.test)) == (41, 0, 5)
    other = load_dataset("tfds:plain?train=train[:50%]", data_dir=root)
    assert other.info.digests != data.info.digests


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("train=train[:90%]&validation=train[80%:]", r"train=train\[:90%\] and validation=train\[80%:\] have examples"),
        ("test=train[90%:]", r"train=train and test=train\[90%:\] have examples in common"),
        ("train=learn", r"train=learn is none of its splits \(test, train\), nor a part of them"),
        ("train=train[:much]", "train=train.:much. is none of its splits"),
        ("validation=train[:0]&train=train[5:]", "holds no examples"),
        ("crop=no", r"expected tfds:NAME"),
        ("colour=red", r"expected tfds:NAME"),
        ("train", r"expected tfds:NAME"),
    ],
)
def test_parts_that_do_not_fit(root, options, message):
    with pytest.raises(UsageError, match=message) as caught:
        load_dataset(f"tfds:plain?{options}", data_dir=root)
    assert "\n" not in str(caught.value)


def test_colours_of_mixed_sizes_are_cut_to_one(root):
    said = []
    data = load_dataset("tfds:mixed", data_dir=root, log=said.append)
    assert data.info.image_shape == data.train.image_shape == (224, 224, 3)
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 6, 2)
    assert said[0].endswith("2 classes, train 12, validation 6, test 2; test taken from train")
    assert "images are cut to 224×224; --image-size states another size" in said[1]
    assert load_dataset("tfds:mixed", data_dir=root, choose_size=lambda: 9).train.image_shape == (9, 9, 3)
    data = load_dataset("tfds:mixed", data_dir=root, image_size=(10, 12))
    assert isinstance(data.train, Split)
    builder = tfds.builder_from_directory(builder_dir=str(root / "mixed" / "2.1.0"))
    raw = builder.as_data_source("validation", decoders={"photo": tfds.decode.SkipDecoding()})
    for image, label, text, example in zip(data.validation.images, data.validation.labels, data.validation.ids, raw):
        assert (label, text) == (example["kind"], example["file_name"].decode())
        wanted, _ = load_image(Image.open(io.BytesIO(example["photo"])), (10, 12, 3))
        np.testing.assert_array_equal(image, wanted)
    everything = [*data.train.ids, *data.test.ids]
    assert sorted(everything) == sorted(f"{n}.jpg" for n in range(14))


def test_large_sets_are_streamed_to_the_same_pixels(root, monkeypatch):
    small = load_dataset("tfds:mixed", data_dir=root, image_size=10)
    monkeypatch.setattr(tfds_sets, "MOST_BYTES", 20 * 10 * 10 * 3 - 1)
    large = load_dataset("tfds:mixed", data_dir=root, image_size=10)
    assert isinstance(large.train, StreamedSplit)
    source = f"{root}/mixed/2.1.0 (prepared by TFDS; read as needed)"
    assert vars(large.info) == vars(small.info) | {"source": source}
    for one, other in zip((small.train, small.validation, small.test), (large.train, large.validation, large.test)):
        assert one.ids == other.ids
        (a,), (b,) = batches(one, len(one)), batches(other, len(other))
        np.testing.assert_allclose(a.image, b.image, atol=1e-5)
        np.testing.assert_array_equal(a.label, b.label)
    monkeypatch.setattr(tfds_sets, "MOST_BYTES", 50 * 8 * 6 - 1)
    large = load_dataset("tfds:plain", data_dir=root)
    assert (type(large.train), large.info.image_shape) == (StreamedSplit, (8, 6, 1))
    (batch,) = batches(large.test, 10)
    images = np.array(batch.image) * large.info.std[0] + large.info.mean[0]
    np.testing.assert_allclose(images, np.stack(stored(root, "plain", "test")[0]) / 255, atol=1e-6)


def test_random_parts_are_streamed_however_few(root):
    data = load_dataset("tfds:mixed?crop=random", data_dir=root, image_size=16)
    assert (data.train.crops.random, data.train.crops.resize) == (True, 18)
    one, two = (next(batches(data.train, 8, key=jax.random.key(0), train=True, epoch=n)).image for n in (0, 1))
    assert not np.array_equal(one, two)
    assert load_dataset("tfds:mixed", data_dir=root, image_size=16, resize_size=20).test.crops.resize == 20
    with pytest.raises(UsageError, match="resize size: tfds:plain is kept in memory"):
        load_dataset("tfds:plain", data_dir=root, resize_size=20)


def test_labels_that_are_texts(root):
    data = load_dataset("tfds:named", data_dir=root)  # in its one configuration
    assert data.info.class_names == ("owl", "cat", "newt")
    assert (len(data.train), len(data.validation), len(data.test)) == (22, 4, 4)
    images, labels = stored(root, "named", "train")
    assert pixels(data.train) | pixels(data.validation) | pixels(data.test) == {
        (image.tobytes(), label) for image, label in zip(images, labels)
    }
    again = load_dataset("tfds:named/small:1.0.0", data_dir=root, validation=2)
    np.testing.assert_array_equal(again.test.images, data.test.images)
    assert len(again.validation) == 2


def test_a_thousand_classes(root):
    data = load_dataset("tfds:many", data_dir=root)
    assert data.info.num_classes == len(data.info.class_names) == 1000
    for split in (data.train, data.validation, data.test):
        np.testing.assert_array_equal(split.images[:, 0, 0, 0], split.labels % 256)


def test_named_sets_can_be_had_by_tfds_too(tmp_path):
    path = prepare("digits", data_dir=tmp_path)
    data, again = (load_dataset(name, data_dir=tmp_path) for name in ("digits", "tfds:digits"))
    assert prepare("tfds:digits", data_dir=tmp_path) == path
    np.testing.assert_allclose(again.info.mean[0], data.info.mean[0], atol=0.01)
    assert pixels(again.test) == pixels(data.test)
    assert pixels(again.train) | pixels(again.validation) == pixels(data.train) | pixels(data.validation)


# ---- Sets of another shape, and such as are not there ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "example", "message"),
    [
        (
            {"text": F.Text(), "label": F.ClassLabel(num_classes=2)},
            {"text": "a", "label": 0},
            r"got label .*, text \(Text\)",
        ),
        (
            {"a": F.Image(shape=(2, 2, 1)), "b": F.Image(shape=(2, 2, 1)), "label": F.ClassLabel(num_classes=2)},
            {"a": png(np.zeros((2, 2), np.uint8)), "b": png(np.zeros((2, 2), np.uint8)), "label": 0},
            r"got a \(Image\), b \(Image\), label \(ClassLabel\)",
        ),
        (
            {"image": F.Image(shape=(2, 2, 1)), "value": F.Scalar(np.float32)},
            {"image": png(np.zeros((2, 2), np.uint8)), "value": 1.0},
            r"got image \(Image\), value \(Scalar\)",
        ),
        (
            {"image": F.Image(shape=(2, 2, 1), dtype=np.uint16), "label": F.ClassLabel(num_classes=2)},
            {"image": png(np.zeros((2, 2), np.uint16)), "label": 0},
            "expected image of 8 bits, got uint16",
        ),
    ],
)
def test_other_features_are_refused_by_name(tmp_path, features, example, message):
    build(tmp_path, "other", features, {"train": [example]})
    with pytest.raises(CnnjaxError, match=message) as caught:
        load_dataset("tfds:other", data_dir=tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/other/1.0.0: expected")
    assert "\n" not in str(caught.value)


def test_of_several_labels_the_supervised_one_counts(tmp_path):
    features = {
        "image": F.Image(shape=(8, 6, 1)),
        "fine": F.ClassLabel(num_classes=3),
        "coarse": F.ClassLabel(num_classes=2),
    }
    rows = [{"image": row["image"], "fine": row["label"], "coarse": 1} for row in grey(20)]
    build(tmp_path, "both", features, {"train": rows}, keys=("image", "fine"))
    assert load_dataset("tfds:both", data_dir=tmp_path).info.num_classes == 3


def test_splits_without_labels_or_of_other_names(tmp_path):
    rows = [{**row, "label": -1} for row in grey(5)]
    build(tmp_path, "hidden", GREY, {"train": grey(20), "test": rows})
    with pytest.raises(CnnjaxError, match=r"hidden/1.0.0: test label -1 of example 0 is out of range"):
        load_dataset("tfds:hidden", data_dir=tmp_path)
    assert len(load_dataset("tfds:hidden?test=train[:5]&train=train[5:]", data_dir=tmp_path).test) == 5
    build(tmp_path, "odd", GREY, {"learn": grey(20)})
    with pytest.raises(UsageError, match=r"has no split train, only learn. Name one: tfds:odd\?train=SPLIT"):
        load_dataset("tfds:odd", data_dir=tmp_path)
    assert len(load_dataset("tfds:odd?train=learn", data_dir=tmp_path).train) == 14


def test_versions_and_configurations(root, tmp_path):
    for version in ("1.9.0", "1.10.0"):
        build(tmp_path, "aged", GREY, {"train": grey(20)}, version=version)
    assert "/1.10.0 " in load_dataset("tfds:aged", data_dir=tmp_path).info.source
    assert "/1.9.0 " in load_dataset("tfds:aged:1.9.0", data_dir=tmp_path).info.source
    with pytest.raises(UsageError, match=r"aged:2.0.0 is not prepared in .*; there are 1.10.0, 1.9.0"):
        load_dataset("tfds:aged:2.0.0", data_dir=tmp_path)
    build(tmp_path, "two", GREY, {"train": grey(20)}, configs=("a", "b"))
    with pytest.raises(UsageError, match=r"prepared in several configurations. Name one: tfds:two/a"):
        load_dataset("tfds:two", data_dir=tmp_path)
    assert "/two/b/" in load_dataset("tfds:two/b", data_dir=tmp_path).info.source


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("kmnist", "tfds build kmnist --file_format=array_record --data_dir={}"),
        ("tfds:kmnist:3.0.1", "tfds build kmnist:3.0.1 --file_format=array_record --data_dir={}"),
        ("imagenet_resized/16x16?train=train[:5%]", "tfds build imagenet_resized/16x16 --file_format"),
        ("tfds:imagenet_resized", "tfds build imagenet_resized/8x8 --file_format=array_record"),
        ("tfds:mine_of_mine", "tfds build FOLDER/mine_of_mine --file_format=array_record"),
    ],
)
def test_what_is_not_prepared_says_how(tmp_path, name, command):
    for use in (load_dataset, prepare):
        with pytest.raises(UsageError, match=f"is not prepared in {tmp_path}") as caught:
            use(name, data_dir=tmp_path)
        assert command.format(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_every_name_of_tfds_resolves_to_a_next_step(tmp_path, monkeypatch):
    names = tfds.list_builders(with_community_datasets=False)
    monkeypatch.setattr(tfds_names, "_builders", lambda: names)
    monkeypatch.setattr(tfds_names, "_default_config", lambda name: "")  # it imports each builder's module
    assert len(names) > 300
    for name in set(names) - set(named_sets.available()):
        assert resolve(name) == f"tfds:{name}"
        with pytest.raises(UsageError, match=f"{name} is not prepared in .*tfds build {name} --file_format"):
            load_dataset(name, data_dir=tmp_path)


def test_names_that_are_nearly_tfds_own(tmp_path):
    with pytest.raises(UsageError, match=r"kmnits is not prepared .* did you mean 'kmnist'"):
        load_dataset("tfds:kmnits", data_dir=tmp_path)
    with pytest.raises(UsageError, match="expected tfds:NAME"):
        load_dataset("tfds:", data_dir=tmp_path)


# ---- TFRECORD --------------------------------------------------------------------------------------------------------


def as_tfrecord(path):
    """Turn array_record files into TFRECORD ones: length, checksum, bytes, checksum an example.

    The checksums are left zero; what stands for TensorFlow here does not read them.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    for file in path.glob("*.array_record-*"):
        reader = ArrayRecordReader(str(file))
        with file.with_name(file.name.replace("array_record", "tfrecord")).open("wb") as out:
            for record in reader.read([*range(reader.num_records())]):
                out.write(struct.pack("<QI", len(record), 0) + record + struct.pack("<I", 0))
        reader.close()
        file.unlink()
    info = json.loads((path / "dataset_info.json").read_text())
    for split in info["splits"]:
        split["filepathTemplate"] = split["filepathTemplate"].replace("array_record", "tfrecord")
    (path / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))


class TFRecords(list):
    """What `tf.data.TFRecordDataset` is, as far as it is used."""

    def __init__(self, path):
        with open(path, "rb") as file:
            while head := file.read(12):
                self.append(file.read(struct.unpack("<Q", head[:8])[0]))
                file.read(4)

    def skip(self, count):
        self[:] = self[count:]
        return self

    def take(self, count):
        self[:] = self[: len(self) if count < 0 else count]
        return self

    def as_numpy_iterator(self):
        return iter(self)


def test_tfrecord_is_read_where_tensorflow_is_and_refused_elsewhere(tmp_path, monkeypatch):
    build(tmp_path, "plain", GREY, {"train": grey(40), "test": grey(10, seed=1)})
    spec = "tfds:plain?train=train[:75%]&validation=train[75%:]"
    wanted = load_dataset(spec, data_dir=tmp_path)
    path = tmp_path / "plain" / "1.0.0"
    as_tfrecord(path)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(CnnjaxError, match=f"^{path}: prepared as tfrecord, .* convert it with: tfds convert_format"):
        load_dataset(spec, data_dir=tmp_path)
    stub = types.ModuleType("tensorflow")
    stub.data = types.SimpleNamespace(TFRecordDataset=TFRecords)
    stub.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "tensorflow", stub)
    found = load_dataset(spec, data_dir=tmp_path)
    for one, other in zip((wanted.train, wanted.validation, wanted.test), (found.train, found.validation, found.test)):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
