"""The file formats datasets are published in: files out of a folder or an archive, and from their bytes to examples.

Files are read into memory, within limits; nothing is ever extracted to disk, and every byte is accounted for.
"""

import dataclasses
import gzip
import io
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from cnnjax.data.content import Examples
from cnnjax.errors import CnnjaxError

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


class Files(Protocol):
    """Give the bytes of files by their names."""

    where: str

    def read(self, limits: Mapping[str, int]) -> dict[str, bytes]:
        """Return the bytes of those files that are there."""
        ...


class Folder:
    """Files in a folder, or in one of the subfolders that packages and archives unpack to.

    Args:
      path: The folder.
    """

    def __init__(self, path: Path):
        self.path = path
        self.where = str(path)

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
        for folder in _SUBFOLDERS:
            for candidate in (name, f"{name}.gz"):
                path = self.path / folder / candidate
                if path.is_file():
                    return path
        return None


class Archive:
    """Files in a tar archive, found by the last part of their names.

    Args:
      path: A tar file, compressed or not.
      where: What to call it in messages.
    """

    def __init__(self, path: Path, where: str):
        self.path = path
        self.where = where

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
    """Say which files make up a dataset and how to read them.

    Args:
      title: What it is called in messages.
      limits: Name of each file, and the most bytes it may have.
      decode: `(files' bytes) -> splits`; raises CnnjaxError, naming the file, where one is wrong.
    """

    title: str
    limits: Mapping[str, int]
    decode: Callable[[dict[str, bytes]], Splits]

    def read(self, files: Files) -> Splits:
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


def cifar_binary_format(
    files: Mapping[str, tuple[str, ...]], examples_a_file: Mapping[str, int], coarse: bool
) -> Format:
    """Return the format of CIFAR's binary version: label bytes, then 3,072 bytes, channel by channel, an example."""
    stride = 3072 + 1 + coarse
    most = max(examples_a_file.values()) * stride

    def decode(found: dict[str, bytes]) -> Splits:
        splits = {}
        for split, names in files.items():
            rows = [_rows(name, gunzip(name, found[name], most), examples_a_file[split], stride) for name in names]
            table = np.concatenate(rows)
            images = table[:, 1 + coarse :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            labels = table[:, : 1 + coarse].astype(np.int32)
            splits[split] = Examples(
                np.ascontiguousarray(images), labels[:, -1].copy(), labels[:, 0].copy() if coarse else None
            )
        return splits

    limits = {name: most for names in files.values() for name in names}
    return Format("the files of the binary version", limits, decode)


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


def _rows(name: str, data: bytes, count: int, stride: int) -> np.ndarray:
    if len(data) != count * stride:
        raise CnnjaxError(f"{name}: expected {count * stride:,} bytes, got {len(data):,}: truncated or not this file.")
    return np.frombuffer(data, np.uint8).reshape(count, stride)
