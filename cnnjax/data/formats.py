"""The file formats datasets are published in: files out of a folder or an archive, and from their bytes to examples.

Files are read into memory, within limits; nothing is ever extracted to disk, and every byte is accounted for.
"""

import dataclasses
import gzip
import hashlib
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from cnnjax.errors import CnnjaxError

_MOST = 256 * 2**20  # bytes of a file, whatever it is
# Where the files lie inside what people download: packages, the official archives, other libraries' folders.
_SUBFOLDERS = (
    "",
    "package",
    "package/data",
    "data",
    "raw",
    "MNIST/raw",
    "FashionMNIST/raw",
    "fashion-mnist",
    "cifar-10-batches-bin",
    "cifar-100-binary",
    "cifar-10-batches-py",
    "cifar-100-python",
    "cifar-10-batches-py-target/cifar-10-batches-py",
    "cifar-100-python-target/cifar-100-python",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Decoded examples of one split.

    Args:
      images: uint8, `[N, H, W, C]`.
      labels: int32, `[N]`.
      coarse: int32, `[N]`, labels of the superclasses, where the dataset has them.
      ids: One text an example, where its place in the source says something; else None.
    """

    images: np.ndarray
    labels: np.ndarray
    coarse: np.ndarray | None = None
    ids: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: Sequence[int] | np.ndarray | slice) -> "Examples":
        """Return the examples at those places, in that order."""
        places = np.arange(len(self))[index]
        coarse = None if self.coarse is None else self.coarse[places]
        ids = None if self.ids is None else [self.ids[int(place)] for place in places]
        return Examples(self.images[places], self.labels[places], coarse, ids)


def example_digests(examples: Examples) -> list[bytes]:
    """Return the sha256 of each example: its image's bytes, then its labels, each as 8 bytes, low byte first."""
    columns = [examples.labels] if examples.coarse is None else [examples.labels, examples.coarse]
    labels = np.stack(columns, axis=1).astype("<i8").view(np.uint8)
    rows = examples.images.reshape(len(examples), -1)
    return [hashlib.sha256(row.tobytes() + label.tobytes()).digest() for row, label in zip(rows, labels)]


def canonical(examples: Examples) -> tuple[Examples, str]:
    """Return the examples sorted by their digests, and the digest of them all.

    Sources differ in the order of their files and writers shuffle; after this, equal content is equal arrays. The
    order looks random but never changes, so its first n examples are a fixed random sample.
    """
    if not len(examples):
        return examples, hashlib.sha256().hexdigest()
    digests = example_digests(examples)
    ids = examples.ids if examples.ids is not None else [""] * len(examples)
    order = sorted(range(len(examples)), key=lambda place: (digests[place], ids[place]))
    total = hashlib.sha256(b"".join(digests[place] for place in order)).hexdigest()
    return examples.take(order), total


class Folder:
    """Files in a folder, or in one of the subfolders that packages and archives unpack to."""

    def __init__(self, path: Path):
        self.path, self.where = path, str(path)

    def read(self, limits: Mapping[str, int]) -> dict[str, bytes]:
        """Return the bytes of those files that are there; `NAME.gz` will do for `NAME`."""
        found = {}
        for name, limit in limits.items():
            path = self.find(name)
            if path is None:
                continue
            try:
                if path.stat().st_size > limit:
                    raise CnnjaxError(f"{path}: expected at most {limit:,} bytes, got {path.stat().st_size:,}.")
                found[name] = path.read_bytes()
            except OSError as error:
                raise CnnjaxError(f"{path}: cannot be read ({error.strerror or error}).") from error
        return found

    def find(self, name: str) -> Path | None:
        """Return where a file of that name is, or None."""
        places = (self.path / folder / kind for folder in _SUBFOLDERS for kind in (name, f"{name}.gz"))
        return next((path for path in places if path.is_file()), None)


class Archive:
    """Files in a tar archive, compressed or not, found by the last part of their names."""

    def __init__(self, path: Path, where: str):
        self.path, self.where = path, where

    def read(self, limits: Mapping[str, int]) -> dict[str, bytes]:
        """Return the bytes of those files that are there."""
        found: dict[str, bytes] = {}
        try:
            with tarfile.open(self.path, mode="r|*") as tar:
                for member in tar:
                    name = member.name.rsplit("/", 1)[-1]
                    name = name if name in limits else name.removesuffix(".gz")
                    if name not in limits or name in found or not member.isreg():
                        continue
                    if member.size > limits[name]:
                        what = f"expected at most {limits[name]:,} bytes, got {member.size:,}"
                        raise CnnjaxError(f"{self.where}: {member.name}: {what}.")
                    file = tar.extractfile(member)
                    found[name] = file.read(member.size) if file else b""
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise CnnjaxError(f"{self.where}: truncated, or no tar archive ({error}).") from error
        return found


def gunzip(name: str, data: bytes, limit: int) -> bytes:
    """Return a gzip file's content, or the data itself where it is not compressed."""
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            content = file.read(limit + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise CnnjaxError(f"{name}: truncated or damaged gzip data ({error}).") from error
    if len(content) > limit:
        raise CnnjaxError(f"{name}: expected at most {limit:,} bytes inside, got more.")
    return content


Splits = dict[str, Examples]


@dataclasses.dataclass(frozen=True)
class Format:
    """Files that make up a dataset, each with the most bytes it may have, and how to decode them."""

    title: str
    limits: Mapping[str, int]
    decode: Callable[[dict[str, bytes]], Splits]

    def read(self, files: Folder | Archive) -> Splits:
        """Return the splits that the files hold."""
        found = files.read(self.limits)
        missing = sorted(set(self.limits) - set(found))
        if missing:
            raise CnnjaxError(f"{files.where}: expected {self.title}, but {', '.join(missing)} is missing.")
        try:
            return self.decode(found)
        except CnnjaxError as error:
            raise CnnjaxError(f"{files.where}: {error}") from error


def idx_format(counts: Mapping[str, int]) -> Format:
    """Return the format of MNIST and its kin: four idx files, gzipped or not.

    References:
      LeCun, the MNIST database, "file formats".
    """
    files = {"train": "train", "test": "t10k"}
    limit = 64 * 2**20

    def decode(found: dict[str, bytes]) -> Splits:
        splits = {}
        for split, prefix in files.items():
            names = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
            images = _idx(names[0], gunzip(names[0], found[names[0]], limit), (counts[split], 28, 28))
            labels = _idx(names[1], gunzip(names[1], found[names[1]], limit), (counts[split],))
            splits[split] = Examples(images[..., None], labels.astype(np.int32))
        return splits

    names = [f"{prefix}-{part}-ubyte" for prefix in files.values() for part in ("images-idx3", "labels-idx1")]
    return Format("the four idx files", dict.fromkeys(names, limit), decode)


def npz_format(name: str, counts: Mapping[str, int]) -> Format:
    """Return the format of Keras's `mnist.npz`: the arrays `x_train`, `y_train`, `x_test` and `y_test`."""

    def decode(found: dict[str, bytes]) -> Splits:
        try:
            with zipfile.ZipFile(io.BytesIO(found[name])) as members:
                size = sum(member.file_size for member in members.infolist())
            if size > _MOST:
                raise CnnjaxError(f"{name}: expected at most {_MOST:,} bytes inside, got {size:,}.")
            with np.load(io.BytesIO(found[name]), allow_pickle=False) as arrays:
                read = {key: arrays[key] for key in ("x_train", "y_train", "x_test", "y_test")}
        except CnnjaxError:
            raise
        except Exception as error:  # zipfile and NumPy raise anything
            raise CnnjaxError(f"{name}: truncated, or not Keras's file ({error}).") from error
        splits = {}
        for split, count in counts.items():
            images, labels = read[f"x_{split}"], read[f"y_{split}"]
            if images.shape != (count, 28, 28) or images.dtype != np.uint8 or labels.shape != (count,):
                got = f"{images.dtype} {images.shape} and {labels.shape}"
                raise CnnjaxError(f"{name}: expected uint8 ({count}, 28, 28) and ({count},) of {split}, got {got}.")
            splits[split] = Examples(images[..., None], labels.astype(np.int32))
        return splits

    return Format(f"Keras's {name}", {name: _MOST}, decode)


def _idx(name: str, data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    magic = 0x0800 + len(shape)  # 0x08: unsigned bytes; then the number of axes
    start = 4 + 4 * len(shape)
    header = np.frombuffer(data[:start], ">u4").tolist() if len(data) >= start else []
    if header[:1] != [magic]:
        raise CnnjaxError(
            f"{name}: expected an idx file that begins with {magic:#010x}, got {data[:4].hex() or 'none'}."
        )
    if tuple(header[1:]) != shape:
        raise CnnjaxError(f"{name}: expected shape {shape}, got {tuple(header[1:])}.")
    expected = start + int(np.prod(shape))
    if len(data) != expected:
        raise CnnjaxError(f"{name}: expected {expected:,} bytes, got {len(data):,}: truncated or not this file.")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
