"""Files by name out of a folder or an archive: read into memory, within limits, nothing ever extracted to disk."""

import gzip
import io
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

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
