"""Files of Keras and of CIFAR's python version, written here as Python 2 and NumPy wrote them."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from cnnjax.data import Split, named_sets
from cnnjax.data.cifar import cifar_python_format
from cnnjax.data.formats import Archive, Folder, npz_format
from cnnjax.data.sources import LocalFolder
from cnnjax.errors import CnnjaxError
from tests.data import tiny
from tests.data.tiny import COUNTS, assert_same, tar_of

CONTENT = tiny.splits()
COLOURS = tiny.splits(shape=(32, 32, 3))
NPZ = npz_format("mnist.npz", COUNTS)
FILES = {"train": ("data_batch_1", "data_batch_2"), "test": ("test_batch",)}
PYTHON = cifar_python_format(FILES, {"train": 20, "test": 10}, coarse=False)


def keras(content=CONTENT, **changes):
    arrays = {}
    for split, part in content.items():
        arrays |= {f"x_{split}": part.images[..., 0], f"y_{split}": part.labels.astype(np.uint8)}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays | changes)
    return file.getvalue()


class Python2(pickle._Pickler):
    """Pickle as Python 2 did, protocol 2: bytes are its strings, and NumPy's modules have their old names."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes

    def save_global(self, value, name=None):
        name = name or value.__qualname__
        module = "numpy.core.multiarray" if name == "_reconstruct" else value.__module__
        self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        self.memoize(value)

    dispatch[type(len)] = dispatch[type(lambda: 0)] = dispatch[type] = save_global


def pickled(value, by=Python2):
    file = io.BytesIO()
    by(file, protocol=2).dump(value)
    return file.getvalue()


def batch(part, **changes):
    data = np.ascontiguousarray(part.images.transpose(0, 3, 1, 2).reshape(len(part), -1))
    found = {b"batch_label": b"training batch 1 of 5", b"labels": part.labels.tolist(), b"data": data}
    return found | {b"filenames": [b"leptodactylus_pentadactylus_s_000004.png"] * len(part)} | changes


def batches():
    halves = [COLOURS["train"].take(slice(0, 20)), COLOURS["train"].take(slice(20, 40))]
    return {"data_batch_1": batch(halves[0]), "data_batch_2": batch(halves[1]), "test_batch": batch(COLOURS["test"])}


def test_keras_file_in_a_folder_and_by_itself(tmp_path):
    tiny.write(tmp_path, {"mnist.npz": keras()})
    assert_same(NPZ.read(Folder(tmp_path)), CONTENT)
    for path in (tmp_path, tmp_path / "mnist.npz"):
        assert_same(LocalFolder(path, (named_sets.get("mnist").layouts[0], NPZ)).read(tmp_path, print), CONTENT)


def bomb():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("x_train.npy", bytes(300 * 2**20))
    return file.getvalue()


def test_what_is_not_kerass_file_is_named(tmp_path):
    for data, said in [
        (keras()[:-100], "truncated, or not Keras's file"),
        (b"hello", "truncated, or not Keras's file"),
        (keras(x_test=np.zeros((9, 28, 28), np.uint8)), r"expected uint8 \(10, 28, 28\) .* got uint8 \(9, 28, 28\)"),
        (keras(x_train=np.zeros((40, 28, 28), np.float32)), r"got float32"),
        (keras(y_train=np.array([{}] * 40)), "allow_pickle=False"),
        (bomb(), "expected at most .* bytes inside, got 314,572,800"),
    ]:
        tiny.write(tmp_path, {"mnist.npz": data})
        with pytest.raises(CnnjaxError, match=rf"^{tmp_path}: mnist\.npz: .*{said}"):
            NPZ.read(Folder(tmp_path))


@pytest.mark.parametrize("by", [Python2, pickle.Pickler])
@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py", "cifar-10-batches-py-target/cifar-10-batches-py"])
def test_cifar_as_python_wrote_it(tmp_path, by, inside):
    files = {name: pickled(value, by) for name, value in batches().items()}
    tiny.write(tmp_path / inside, files)
    assert_same(PYTHON.read(Folder(tmp_path)), COLOURS)
    path = tar_of(tmp_path / "a.tar.gz", {f"cifar-10-batches-py/{name}": data for name, data in files.items()}, "w:gz")
    assert_same(PYTHON.read(Archive(path, "a")), COLOURS)
    assert b"_reconstruct" in files["test_batch"]
    assert pickle.loads(files["test_batch"], encoding="bytes")[b"data"].shape == (10, 3072)


def test_superclasses(tmp_path):
    parts = {name: batch(part) for name, part in COLOURS.items()}
    for found in parts.values():
        found[b"fine_labels"] = found.pop(b"labels")
        found[b"coarse_labels"] = [label // 2 for label in found[b"fine_labels"]]
    tiny.write(tmp_path / "cifar-100-python", {name: pickled(found) for name, found in parts.items()})
    layout = cifar_python_format({"train": ("train",), "test": ("test",)}, COUNTS, coarse=True)
    read = layout.read(Folder(tmp_path))
    assert_same(read, COLOURS)
    np.testing.assert_array_equal(read["test"].coarse, COLOURS["test"].labels // 2)


class Evil:
    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_no_pickle_runs_anything(tmp_path):
    evil = Evil()
    evil.path = str(tmp_path / "made")
    sixteen = batch(COLOURS["test"])[b"data"].astype(np.uint16)
    for data, said in [
        (pickle.dumps(evil, 2), "it names posix.mkdir, which is not run"),
        (pickled(batch(COLOURS["test"], data=evil), pickle.Pickler), "which is not run"),
        (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncbuiltins\neval\n\x85R.", "it names builtins.eval"),
        (b"r\xff\xff\xff\xff0.", "truncated, or not CIFAR's file"),  # the C reader takes gigabytes for it
        (b"(" + b"\x85" * 10**6 + b"}s.", "too many tuples"),
        (pickled([1]), "expected a dictionary, got list"),
        (pickled({}), r"expected data of uint8 \(10, 3072\)"),
        (pickled(batch(COLOURS["test"]))[:-5000], "truncated, or not"),
        (pickled({**batch(COLOURS["test"]), b"data": sixteen}), "bytes do not fit its shape"),
        (pickled({**batch(COLOURS["test"]), b"labels": [1.5] * 10}), "expected 10 whole numbers as labels"),
        (pickled({**batch(COLOURS["test"]), b"labels": [1] * 9}), "expected 10 whole numbers as labels"),
        (b"", "truncated"),
    ]:
        files = {name: pickled(value) for name, value in batches().items()} | {"test_batch": data}
        tiny.write(tmp_path, files)
        with pytest.raises(CnnjaxError, match=rf"^{tmp_path}: test_batch: .*{said}") as caught:
            PYTHON.read(Folder(tmp_path))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">i4"])
def test_labels_of_any_whole_type(dtype):
    images = np.zeros((3, 2, 2, 1), np.uint8)
    split = Split("train", images, np.array([0, 100, 127]).astype(dtype), ["a", "b", "c"], (0.5,), (1.0,))
    assert split.labels.dtype == np.int32
    assert split.labels.tolist() == [0, 100, 127]
    assert split.gather(np.array([2, 1], np.int32)).label.dtype == np.int32


@pytest.mark.parametrize("labels", [np.eye(3), np.eye(3, dtype=np.int32), np.zeros(3), np.zeros(3, bool)])
def test_labels_of_another_kind_are_refused_with_what_to_do(labels):
    with pytest.raises(ValueError, match=r"expected whole numbers \[N\] as labels, got .* take labels.argmax"):
        Split("train", np.zeros((3, 2, 2, 1), np.uint8), labels, ["a", "b", "c"], (0.5,), (1.0,))
