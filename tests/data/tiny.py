"""Small datasets in real formats, for tests that would be slow with real ones."""

import dataclasses
import gzip
import hashlib
import io
import struct
import tarfile

import numpy as np

from cnnjax.data import formats, named_sets
from cnnjax.data.dataset import statistics
from cnnjax.data.formats import Examples, canonical
from cnnjax.data.sources import RemoteFile

COUNTS = {"train": 40, "test": 10}
IDX_NAMES = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
]


def examples(count, shape=(28, 28, 1), seed=0, classes=10):
    """Return random examples in which every class occurs equally often."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes).astype(np.int32)
    return Examples(rng.integers(0, 256, (count, *shape), dtype=np.uint8), labels)


def splits(seed=0, **options):
    """Return a training and a test split."""
    return {name: examples(count, seed=seed + place, **options) for place, (name, count) in enumerate(COUNTS.items())}


def idx_bytes(array):
    """Return an array as an idx file, byte for byte as the format's description says."""
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def idx_files(content, *, zipped=False):
    """Return the names and bytes of the four files of MNIST's kind."""
    arrays = []
    for split in ("train", "test"):
        arrays += [content[split].images[..., 0], content[split].labels.astype(np.uint8)]
    files = {name: idx_bytes(array) for name, array in zip(IDX_NAMES, arrays)}
    return {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in files.items()} if zipped else files


def remote_files(files):
    """Return what is known about files at an address."""
    return tuple(RemoteFile(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items())


def entry(content, *sources, name="mnist", **changes):
    """Return the entry of `name` for small content, with these sources and no others."""
    layout = formats.idx_format({split: len(part) for split, part in content.items()})
    mean, std = statistics(content["train"].images)
    fields = {
        "counts": {split: len(part) for split, part in content.items()},
        "digests": {split: canonical(part)[1] for split, part in content.items()},
        "layouts": (layout,),
        "sources": sources,
        "validation": 8,
        "mean": mean,
        "std": std,
    }
    return dataclasses.replace(named_sets.get(name), **(fields | changes))


def write(folder, files):
    """Write files into a folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


class Source:
    """Give content, or raise what it is given, and count how often it was asked."""

    def __init__(self, result, title="a source"):
        self.result, self.title, self.asked = result, title, 0

    def read(self, work, log):
        self.asked += 1
        (work / "half-a-file").write_text("x")
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def changed(content, split, change):
    """Return the content with one array of one split changed in place."""
    part = content[split]
    images, labels = part.images.copy(), part.labels.copy()
    change(images, labels)
    return {**content, split: Examples(images, labels)}


FILES = idx_files(splits())


def assert_same(got, expected):
    for split in ("train", "test"):
        np.testing.assert_array_equal(got[split].images, expected[split].images)
        np.testing.assert_array_equal(got[split].labels, expected[split].labels)


def tar_of(path, files, mode="w:gz"):
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def cifar_rows(examples, coarse=None):
    """Return examples as CIFAR's page describes its binary version: labels, then red, green and blue planes."""
    rows = []
    for place, (image, label) in enumerate(zip(examples.images, examples.labels)):
        first = [] if coarse is None else [int(coarse[place])]
        rows.append(bytes([*first, int(label)]) + b"".join(image[..., channel].tobytes() for channel in range(3)))
    return b"".join(rows)
