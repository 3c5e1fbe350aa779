"""Directories that TFDS or others prepared, and such as were damaged."""

import functools
import json

import pytest

from cnnjax.data import named_sets, prepared
from cnnjax.data.load import describe_sources
from cnnjax.data.prepare import prepare, verify, write
from cnnjax.errors import CnnjaxError
from tests.data import tiny

CONTENT = tiny.splits()


def edit_info(path, **changes):
    info = json.loads((path / "dataset_info.json").read_text())
    (path / "dataset_info.json").write_text(json.dumps(info | changes))


@pytest.fixture
def ready(tmp_path):
    entry = tiny.entry(CONTENT, tiny.Source(CONTENT))
    return entry, prepare(entry, tmp_path / "with space", None, print)


def test_stock_directories_work_as_they_are(ready):
    entry, path = ready
    (path / "cnnjax.json").unlink()
    edit_info(path, moduleName="tensorflow_datasets.image_classification.mnist")
    verify(entry, prepared.read(entry, path), str(path), prepared.read_record(path))


def test_converted_stock_directories_work(ready):
    entry, path = ready
    edit_info(path, fileFormat="tfrecord", alternativeFileFormats=["array_record"])
    verify(entry, prepared.read(entry, path), str(path))


@pytest.mark.parametrize("named", [True, False])
def test_tfrecord_directories_are_refused_with_the_command_that_converts_them(ready, named):
    entry, path = ready
    info = json.loads((path / "dataset_info.json").read_text())
    del info["fileFormat"]  # old TFDS wrote tfrecord and did not say so
    (path / "dataset_info.json").write_text(json.dumps(info | ({"fileFormat": "tfrecord"} if named else {})))
    with pytest.raises(CnnjaxError) as caught:
        prepared.read(entry, path)
    command = f"tfds convert_format --dataset_version_dir='{path}' --out_file_format=array_record"
    assert str(caught.value).startswith(f"{path}: prepared as tfrecord, which needs TensorFlow")
    assert str(caught.value).endswith(command)


def test_labels_out_of_range_are_refused_before_use(tmp_path):
    content = tiny.changed(CONTENT, "train", lambda images, labels: labels.__setitem__(5, 9))
    path = write(tiny.entry(content), content, tmp_path, {"source": "here"})
    edit = tiny.entry(content, class_names=tuple("012345678"))
    with pytest.raises(CnnjaxError, match=r"train: label 9 of example \d+ is out of range \[0, 9\)"):
        prepared.read(edit, path)


def test_another_dataset_is_refused(ready):
    _, path = ready
    for entry, message in [
        (named_sets.get("mnist"), "expected 60,000 train examples of mnist, got 40"),
        (named_sets.get("cifar100"), r"expected the features \['coarse_label', 'image', 'label'\] of cifar100"),
        (tiny.entry(CONTENT, image_shape=(8, 8, 1)), r"expected images \(8, 8, 1\), got \(28, 28, 1\)"),
    ]:
        with pytest.raises(CnnjaxError, match=message):
            prepared.read(entry, path)


@pytest.mark.parametrize("keep", [0, 100, 20000])
def test_truncated_records_are_refused_by_name(ready, keep):
    entry, path = ready
    records = path / "mnist-train.array_record-00000-of-00001"
    records.write_bytes(records.read_bytes()[:keep])
    with pytest.raises(CnnjaxError, match=f"^{path}: damaged .* Delete it and prepare mnist again"):
        prepared.read(entry, path)


def test_a_flipped_bit_is_refused(ready):
    entry, path = ready
    records = path / "mnist-test.array_record-00000-of-00001"
    data = bytearray(records.read_bytes())
    data[data.index(b"IDAT") + 40] ^= 1  # noise does not compress: images lie there as they are
    records.write_bytes(data)
    with pytest.raises(CnnjaxError, match=str(path)):
        verify(entry, prepared.read(entry, path), str(path))


@pytest.mark.parametrize("name", ["dataset_info.json", "cnnjax.json"])
def test_damaged_metadata_is_named(ready, name):
    entry, path = ready
    (path / name).write_text("{")
    read = prepared.read_record if name == "cnnjax.json" else functools.partial(prepared.read, entry)
    with pytest.raises(CnnjaxError, match=f"{path / name}: cannot be read"):
        read(path)


def test_missing_features_are_reported(ready):
    entry, path = ready
    (path / "features.json").unlink()
    with pytest.raises(CnnjaxError, match=f"{path}: damaged"):
        prepared.read(entry, path)


def test_what_is_prepared_can_be_seen_without_reading(ready):
    _, path = ready
    rows = {row["name"]: row for row in describe_sources(path.parent.parent)}
    assert rows["mnist"]["prepared"] == str(path)
    assert rows["cifar100"]["prepared"] is None
    assert rows["mnist"]["sources"] == ["official address storage.googleapis.com"]
    assert (rows["cifar100"]["train"], rows["cifar100"]["test"], rows["cifar100"]["classes"]) == (50000, 10000, 100)


def test_a_tfrecord_directory_is_listed_as_what_cannot_be_read(tmp_path):
    path = tmp_path / "mnist" / "3.0.1"
    path.mkdir(parents=True)
    (path / "dataset_info.json").write_text('{"fileFormat": "tfrecord"}')
    row = next(row for row in describe_sources(tmp_path) if row["name"] == "mnist")
    assert row["prepared"] is None
    assert "convert_format" in row["note"]
