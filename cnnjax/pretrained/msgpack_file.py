"""Flax's msgpack files: nested maps whose leaves are arrays, each an extension of shape, type and bytes."""

import pathlib
import struct
from collections.abc import Iterator
from typing import IO, Any

from cnnjax.pretrained.tensors import (
    MAX_NAME,
    MAX_RANK,
    MAX_TENSORS,
    SourceFile,
    SourceTensor,
    WeightsError,
    checked_size,
    read_array,
)
from cnnjax.safetensors import DTYPES

_MAX_DEPTH, _MAX_ITEMS = 32, 1_000_000
_NDARRAY, _SCALAR = 1, 3
_TYPES = {dtype.name: dtype for dtype in DTYPES.values()}
# First byte -> kind and the number of bytes (or the struct) that give the size or the value.
_SIZED = {
    0xC4: ("bin", 1),
    0xC5: ("bin", 2),
    0xC6: ("bin", 4),
    0xC7: ("ext", 1),
    0xC8: ("ext", 2),
    0xC9: ("ext", 4),
    0xD9: ("str", 1),
    0xDA: ("str", 2),
    0xDB: ("str", 4),
    0xDC: ("array", 2),
    0xDD: ("array", 4),
    0xDE: ("map", 2),
    0xDF: ("map", 4),
}
_NUMBERS = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


def open_msgpack(path: pathlib.Path) -> SourceFile:
    """Return the arrays of a file of `flax.serialization`, their names joined by slashes.

    Args:
      path: The file.
    Raises:
      WeightsError: If it is damaged or holds anything but maps, arrays, numbers and strings.
    """
    tensors: dict[str, SourceTensor] = {}
    others: list[str] = []
    with path.open("rb") as file:
        walker = _Walker(path, file)
        for name, tensor in walker.leaves("", 0):
            if tensor is None:
                others.append(name)
            elif name in tensors or len(tensors) >= MAX_TENSORS:
                raise WeightsError(f"{name[:80]} is in it more than once, or it has more than {MAX_TENSORS} tensors.")
            else:
                tensors[name] = tensor
        if file.tell() != walker.size:
            raise WeightsError(f"expected the file to end with its tree, {walker.size - file.tell()} bytes follow.")
    if not tensors:
        raise WeightsError("there are no arrays in it.")
    shown = ", ".join(name[:40] for name in others[:8]) + (" ..." if len(others) > 8 else "")
    notes = (f"Entries that are no arrays were not read: {shown}.",) if others else ()
    return SourceFile(path, "msgpack", tensors, notes)


class _Walker:
    """Read a msgpack tree once from front to back; arrays' bytes are passed over, only their places are kept."""

    def __init__(self, path: pathlib.Path, file: IO[bytes]):
        self.path, self.file = path, file
        self.size = file.seek(0, 2)
        self.items = 0
        file.seek(0)

    def leaves(self, name: str, depth: int) -> Iterator[tuple[str, SourceTensor | None]]:
        """Give every leaf below this place: arrays, and None for what is none."""
        kind, value = self.head()
        if kind == "map" and depth < _MAX_DEPTH:
            for _ in range(value):
                key_kind, key = self.head()
                if key_kind != "str":
                    raise WeightsError(f"{name[:80] or 'its root'}: a map in it has a key that is no string.")
                text = self.text(key)
                if len(name) + len(text) > MAX_NAME:
                    raise WeightsError(f"a name in it has more than {MAX_NAME} characters.")
                yield from self.leaves(f"{name}/{text}" if name else text, depth + 1)
        elif kind == "array" and depth < _MAX_DEPTH:
            for index in range(value):
                yield from self.leaves(f"{name}/{index}", depth + 1)
        elif kind == "ext":
            yield name, self.array(name, value)
        elif kind in ("map", "array"):
            raise WeightsError(f"it is nested more than {_MAX_DEPTH} deep.")
        else:
            if kind in ("str", "bin"):
                self.skip(value)
            yield name, None

    def head(self) -> tuple[str, Any]:
        """Return the kind of the next item and its size, or its value if it is a number or a constant."""
        self.items += 1
        if self.items > _MAX_ITEMS:
            raise WeightsError(f"it has more than {_MAX_ITEMS} items.")
        first = self.take(1)[0]
        if first < 0x80 or first >= 0xE0:
            return "value", first if first < 0x80 else first - 256
        if first < 0xA0:
            return "map" if first < 0x90 else "array", first & 0x0F
        if first < 0xC0:
            return "str", first & 0x1F
        if first in _SIZED:
            kind, width = _SIZED[first]
            return kind, int.from_bytes(self.take(width), "big")
        if 0xD4 <= first <= 0xD8:
            return "ext", 1 << (first - 0xD4)
        if first in _NUMBERS:
            return "value", struct.unpack(_NUMBERS[first], self.take(struct.calcsize(_NUMBERS[first])))[0]
        if first in _CONSTANTS:
            return "value", _CONSTANTS[first]
        raise WeightsError(f"it is no msgpack: there is no item that starts with 0x{first:02x}.")

    def array(self, name: str, size: int) -> SourceTensor:
        """Return the array of an extension: `(shape, name of the type, bytes)`, itself msgpack."""
        shown = name[:80] or "its root"
        code = self.take(1)[0]
        end = self.file.tell() + size
        if code not in (_NDARRAY, _SCALAR) or end > self.size:
            raise WeightsError(f"{shown}: expected an array in {size} bytes, found something else (type {code}).")
        if self.head() != ("array", 3):
            raise WeightsError(f"{shown}: expected an array's shape, type and bytes.")
        kind, rank = self.head()
        if kind != "array" or rank > MAX_RANK:
            raise WeightsError(f"{shown}: expected a shape of at most {MAX_RANK} sizes.")
        sizes = [self.head() for _ in range(rank)]
        kind, length = self.head()
        dtype = _TYPES.get(self.text(length)) if kind == "str" else None
        kind, length = self.head()
        shape = tuple(value for kind, value in sizes if kind == "value" and type(value) is int)
        if dtype is None or kind != "bin" or len(shape) != rank:
            raise WeightsError(f"{shown}: expected a shape, the name of a type of numbers and bytes.")
        offset = self.file.tell()
        nbytes = checked_size(name, shape, dtype, length)
        if nbytes != length or offset + length != end:
            raise WeightsError(f"{shown}: expected {nbytes} bytes for {dtype}{list(shape)}, found {length}.")
        self.skip(length)
        return SourceTensor(name, shape, dtype, lambda: read_array(self.path, offset, shape, dtype))

    def text(self, length: int) -> str:
        """Return the string that stands here."""
        if length > MAX_NAME:
            raise WeightsError(f"a name in it has {length} bytes; at most {MAX_NAME} are read.")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise WeightsError("a name in it is not plain text.") from error

    def take(self, count: int) -> bytes:
        """Return the next bytes, all of them."""
        piece = self.file.read(count)
        if len(piece) != count:
            raise WeightsError("it ends in the middle.")
        return piece

    def skip(self, count: int) -> None:
        """Pass over bytes that are there."""
        if self.file.tell() + count > self.size:
            raise WeightsError("it ends in the middle.")
        self.file.seek(count, 1)
