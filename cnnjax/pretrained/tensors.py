"""What every reader of weight files gives: named tensors that are read from the file when they are asked for."""

import functools
import hashlib
import importlib
import json
import math
import pathlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

from cnnjax.errors import CnnjaxError

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
# No published net has longer names, deeper shapes or more tensors; a file that claims them is damaged or hostile.
MAX_NAME, MAX_RANK, MAX_TENSORS = 1024, 8, 100_000
# Braces, brackets, commas and colons of a JSON text: a tensor of a safetensors header takes at most twenty.
_MAX_PIECES = 20 * MAX_TENSORS

# What a file starts with decides who reads it; the extension decides nothing. Readers are imported when needed.
_READERS = {
    "zip": "cnnjax.pretrained.zip_files:open_zip",
    "hdf5": "cnnjax.pretrained.keras_hdf5:open_hdf5",
    "safetensors": "cnnjax.pretrained.safetensors_file:open_safetensors",
    "torch legacy": "cnnjax.pretrained.torch_legacy:open_torch_legacy",
    "msgpack": "cnnjax.pretrained.msgpack_file:open_msgpack",
    "directory": "cnnjax.pretrained.orbax_dir:open_orbax",
}
# What a run's checkpoint keeps its arrays in, see `cnnjax.runs`.
_OF_A_RUN = "arrays.safetensors"
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# torch.save before 1.6 began with the pickle of the number 0x1950a86a20f9469cfc6c.
_TORCH_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class WeightsError(CnnjaxError):
    """A file of weights could not be read, is not what it says it is, or does not fit the model."""

    def __init__(self, message: str):
        super().__init__(printable(message))


def printable(text: str) -> str:
    """Return text out of a file in one line, without what could move a terminal's cursor or change its colours."""
    return "".join(c if c.isprintable() else "?" for c in text)


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
        """Return the values as they are stored.

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
    """

    path: pathlib.Path
    format: str
    tensors: dict[str, SourceTensor]
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def open_file(path: str | pathlib.Path) -> SourceFile:
    """Return the tensors of a file of weights; what is in it decides how it is read, not its name.

    Nothing that the file says is carried out: there is no unpickling of anything but arrays, no model is rebuilt, and
    no memory is taken for a size that the file only claims.

    Args:
      path: A file of PyTorch, safetensors, Keras or Flax msgpack, an Orbax directory, or a checkpoint of a run.
    Raises:
      WeightsError: If it can't be read; one line that starts with the path.
    """
    path = pathlib.Path(path)
    try:
        path = path / _OF_A_RUN if (path / _OF_A_RUN).is_file() else path
        kind = "directory" if path.is_dir() else _sniff(path)
        module, _, function = _READERS[kind].partition(":")
        file = getattr(importlib.import_module(module), function)(path)
    except (OSError, WeightsError) as error:
        raise _with_path(path, error) from error
    fetches = {name: functools.partial(_read, path, tensor) for name, tensor in file.tensors.items()}
    return replace(file, tensors={name: replace(file.tensors[name], fetch=fetches[name]) for name in fetches})


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


def checked_size(name: str, shape: tuple[int, ...], dtype: np.dtype, available: int) -> int:
    """Return the bytes that a tensor takes, after checking that the file can hold that many.

    Args:
      name: For the message.
      shape: As the file claims.
      dtype: As the file claims.
      available: Bytes that there are.
    Raises:
      WeightsError: If the name or the shape is absurd or the bytes are more than there are.
    """
    if len(name) > MAX_NAME:
        raise WeightsError(f"a tensor's name of {len(name)} characters; at most {MAX_NAME} are read.")
    if len(shape) > MAX_RANK or any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in shape):
        raise WeightsError(f"{name}: expected a shape of at most {MAX_RANK} sizes >= 0, got {str(shape)[:80]}.")
    size = math.prod(shape) * dtype.itemsize
    if size > available:
        raise WeightsError(f"{name}: claims {size} bytes, the file has {available} for it.")
    return size


def parse_json(text: bytes, what: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return the value of a JSON text, after counting what it would make: small pieces take many times their bytes.

    Args:
      text: In UTF-8.
      what: For the message, such as `its header`.
      pairs: Makes the objects, as `object_pairs_hook`.
    Raises:
      WeightsError: If it is no JSON, or has more pieces than a file with `MAX_TENSORS` needs.
    """
    if sum(map(text.count, (b"{", b"[", b",", b":"))) > _MAX_PIECES:
        raise WeightsError(f"{what} is larger than that of any file of weights.")
    try:
        return json.loads(text.decode(), object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{what} is damaged.") from error


def read_array(path: pathlib.Path, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array that lies in a file as it is.

    Raises:
      WeightsError: If the file ends before the array does.
    """
    count = math.prod(shape)
    with path.open("rb") as file:
        file.seek(0, 2)
        if file.tell() < offset + count * dtype.itemsize:
            raise WeightsError("it is shorter than when it was opened.")
        file.seek(offset)
        return np.fromfile(file, dtype, count).reshape(shape)


def _read(path: pathlib.Path, tensor: SourceTensor) -> np.ndarray:
    try:
        return tensor.read()
    except (OSError, WeightsError) as error:
        raise _with_path(path, error) from error


def _with_path(path: pathlib.Path, error: OSError | WeightsError) -> WeightsError:
    """Return the error as one line that starts with the path."""
    text = f"{error.strerror or error}." if isinstance(error, OSError) else str(error)
    return WeightsError(text if text.startswith(f"{path}: ") else f"{path}: {text}")


def _sniff(path: pathlib.Path) -> str:
    """Return which reader a file is for."""
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
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise WeightsError("it is a plain pickle, which can run anything; expected a file of torch.save.")
    if head.startswith(_PNG_MAGIC):  # its first byte is also that of a msgpack map
        raise WeightsError("it is a picture (PNG), no file of weights.")
    if head[0] in range(0x80, 0x90) or head[0] in (0xDE, 0xDF):
        return "msgpack"
    raise WeightsError(
        "it is no file of weights that is known; expected PyTorch, safetensors, Keras, Flax msgpack or Orbax, "
        f"found one that starts with {head[:8]!r}."
    )
