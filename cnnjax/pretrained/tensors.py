"""What every reader of weight files gives: named tensors that are read from the file when they are asked for."""

import functools
import hashlib
import math
import pathlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import ml_dtypes
import numpy as np

from cnnjax.pretrained.readers import ORBAX_METADATA, WeightsError
from cnnjax.pretrained.readers.child import Child
from cnnjax.pretrained.readers.msgpack import open_msgpack
from cnnjax.pretrained.readers.stored import open_safetensors, parts_of
from cnnjax.safetensors import DTYPES

__all__ = [
    "LeftOut",
    "SourceFile",
    "SourceTensor",
    "WeightsError",
    "check_sha256",
    "open_file",
    "sha256_of",
]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# What a file starts with decides who reads it; the extension decides nothing. Those nobody vouches for go to a child.
_CHILDREN = {"zip": "zips", "torch legacy": "pytorch", "hdf5": "keras", "orbax": "orbax"}
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# torch.save before 1.6 began with the pickle of the number 0x1950a86a20f9469cfc6c.
_TORCH_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


@dataclass(frozen=True)
class SourceTensor:
    """One tensor of a file, not read yet.

    Args:
      name: As in the file.
      shape: As the file says, already checked against the file's size.
      dtype: NumPy's; bfloat16 is `ml_dtypes`'.
      fetch: Reads the values, in that shape and dtype.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    fetch: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes that the values take in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """Return the values as they are stored, in memory that nobody else holds.

        Raises:
          WeightsError: If the file no longer holds them, or holds something else.
        """
        values = self.fetch()
        if values.shape != self.shape or values.dtype != self.dtype:
            raise WeightsError(
                f"{self.name}: expected {self.dtype}{list(self.shape)}, read {values.dtype}{list(values.shape)}."
            )
        return values


@dataclass(frozen=True)
class LeftOut:
    """One tensor of a file that is no part of the net's state, such as an optimizer's.

    Args:
      name: Its place in the file, the keys joined by dots.
      shape: As the file says.
      dtype: NumPy's.
      reason: Where it is, and where the state is.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    reason: str


@dataclass(frozen=True)
class SourceFile:
    """What a file of weights holds.

    Args:
      path: The file or folder.
      format: `torch`, `safetensors`, `keras-h5`, `keras-weights-h5`, `keras`, `msgpack` or `orbax`.
      tensors: By name, in the order of the file.
      notes: What the reader wants to have said, one sentence each.
      left_out: Tensors beside the state, which are not read.
      config: What the file says of its layers beside their weights, by layer; only Keras's do.
    """

    path: pathlib.Path
    format: str
    tensors: dict[str, SourceTensor]
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)


def open_file(path: str | pathlib.Path, which: str = "") -> SourceFile:
    """Return the tensors of a file of weights; what is in it decides how it is read, not its name.

    Nothing that the file says is carried out: there is no unpickling of anything but arrays, no model is rebuilt, and
    no memory is taken for a size that the file only claims.

    Args:
      path: A file of PyTorch, safetensors, Keras or Flax msgpack, an Orbax folder, or a folder or an index of
        safetensors files, such as a checkpoint of a run.
      which: The state to take where a file of PyTorch has several, such as `model_ema`; empty for the usual one.
    Raises:
      WeightsError: If it can't be read; one line that starts with the path.
    """
    path = pathlib.Path(path)
    try:
        kind = _kind_of(path)
        file = _open_parts(path) if kind == "parts" else _open(path, kind, which)
    except (OSError, WeightsError) as error:
        raise _with_path(path, error) from error
    fetches = {name: functools.partial(_read, path, tensor) for name, tensor in file.tensors.items()}
    return replace(file, tensors={name: replace(file.tensors[name], fetch=fetches[name]) for name in fetches})


def _open(path: pathlib.Path, kind: str, which: str) -> SourceFile:
    if kind in _CHILDREN:
        child = Child(_CHILDREN[kind], path, which)
        said = child.content
        left_out = [LeftOut(n, tuple(shape), DTYPES[code], reason) for n, code, shape, reason in said["left_out"]]
        tensors = {
            name: SourceTensor(name, place.shape, place.dtype, functools.partial(child.read, name))
            for name, place in child.tensors.items()
        }
        return SourceFile(path, said["format"], tensors, tuple(said["notes"]), tuple(left_out), said["config"])
    if which:
        raise WeightsError(f"it is {kind}, which holds one state; which= has no meaning for it.")
    found: dict[str, Any]
    found, notes = open_msgpack(path) if kind == "msgpack" else (open_safetensors(path), ())
    return SourceFile(path, kind, {name: SourceTensor(name, *rest) for name, rest in found.items()}, notes)


def _open_parts(path: pathlib.Path) -> SourceFile:
    """Return the tensors of a folder or an index, in the order of the files."""
    tensors: dict[str, SourceTensor] = {}
    file = SourceFile(path, "safetensors", tensors)
    for part, names in parts_of(path).items():
        file = open_file(part)
        missing = (names or set()) - file.tensors.keys()
        if missing or tensors.keys() & file.tensors.keys():
            name = min(missing or tensors.keys() & file.tensors.keys())
            raise WeightsError(f"{name[:80]} is {'not in' if missing else 'in more files than'} {part.name}.")
        tensors.update((name, file.tensors[name]) for name in file.tensors if names is None or name in names)
    return replace(file, path=path, tensors=tensors)


def sha256_of(path: str | pathlib.Path) -> str:
    """Return the sha256 of a file, in hexadecimal digits.

    Raises:
      WeightsError: If it can't be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror or error}.") from error


def check_sha256(path: str | pathlib.Path, expected: str) -> None:
    """Refuse a file whose sha256 is another.

    Args:
      path: The file.
      expected: Hexadecimal digits, all 64 or the first of them (at least 8), as in the names of torchvision's files.
    Raises:
      WeightsError: If it is another, or there is no such file.
    """
    if not re.fullmatch("[0-9a-fA-F]{8,64}", expected):
        raise WeightsError(f"expected a sha256 of 8 to 64 hexadecimal digits, got {expected!r}.")
    found = sha256_of(path)
    if not found.startswith(expected.lower()):
        raise WeightsError(f"{path}: its sha256 is {found}, expected {expected}. It is damaged or another file.")


def _read(path: pathlib.Path, tensor: SourceTensor) -> np.ndarray:
    try:
        return tensor.read()
    except (OSError, WeightsError) as error:
        raise _with_path(path, error) from error


def _with_path(path: pathlib.Path, error: OSError | WeightsError) -> WeightsError:
    """Return the error as one line that starts with the path."""
    text = f"{error.strerror or error}." if isinstance(error, OSError) else str(error)
    return WeightsError(text if text.startswith(f"{path}: ") else f"{path}: {text}")


def _kind_of(path: pathlib.Path) -> str:
    """Return which reader a file or folder is for."""
    if path.is_dir():
        orbax = (path / ORBAX_METADATA).is_file() or any(path.glob(f"*/{ORBAX_METADATA}"))
        return "orbax" if orbax else "parts"
    if path.exists() and not path.is_file():  # a pipe would wait for ever, a device never end
        raise WeightsError("it is neither a file nor a folder.")
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(32)
    if not size:
        raise WeightsError("the file is empty.")
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(_HDF5_MAGIC):
        return "hdf5"
    if head[:1] == b"\x80" and _TORCH_LEGACY_MAGIC in head:
        return "torch legacy"
    if head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    if head.lstrip()[:1] == b"{":
        return "parts"
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise WeightsError("it is a plain pickle, which can run anything; expected a file of torch.save.")
    if head.startswith(_PNG_MAGIC):  # its first byte is also that of a msgpack map
        raise WeightsError("it is a picture (PNG), not a file of weights.")
    if head[0] in range(0x80, 0x90) or head[0] in (0xDE, 0xDF):
        return "msgpack"
    raise WeightsError(
        "it is not a file of weights that is known; expected PyTorch, safetensors, Keras, Flax msgpack or Orbax, "
        f"found one that starts with {head[:8]!r}."
    )
