"""The messages in an HDF5 object's header, as far as Keras and h5py write them: shapes, types, layouts, attributes."""

from dataclasses import dataclass

import numpy as np

from cnnjax.pretrained.hdf5_bytes import UNDEFINED, Fields, Window
from cnnjax.pretrained.tensors import MAX_RANK, WeightsError

_FIXED, _FLOAT, _STRING, _OPAQUE, _VARIABLE = 0, 1, 3, 5, 9
_COMPACT, _CONTIGUOUS, _CHUNKED, _VIRTUAL = 0, 1, 2, 3
# Exponent's place and size, mantissa's size, bias: IEEE 754's half, single, double; and bfloat16.
_IEEE = {2: (10, 5, 10, 15), 4: (23, 8, 23, 127), 8: (52, 11, 52, 1023)}


@dataclass(frozen=True)
class Type:
    """How one element is stored.

    Args:
      size: Its bytes.
      dtype: NumPy's; None for text that lies elsewhere in the file.
    """

    size: int
    dtype: np.dtype | None


@dataclass(frozen=True)
class Layout:
    """Where a dataset's values lie.

    Args:
      offset: Their first byte, or the root of the tree of chunks.
      size: Their bytes, where they lie in one piece.
      chunks: Shape of a chunk with the element's size at the end, or None.
      values: The values themselves, if they are in the header.
    """

    offset: int
    size: int
    chunks: tuple[int, ...] | None = None
    values: bytes | None = None


@dataclass(frozen=True)
class Attribute:
    """A named value of a group or dataset, not decoded yet.

    Args:
      type: Of an element.
      shape: Of the whole.
      data: The stored bytes.
    """

    type: Type
    shape: tuple[int, ...]
    data: bytes


def read_shape(data: bytes) -> tuple[int, ...]:
    """Return the shape in a dataspace message."""
    fields = Fields(data, "a dataspace")
    version, rank, flags, kind = fields.numbers(1, 1, 1, 1)
    if version not in (1, 2) or rank > MAX_RANK or (version == 2 and kind not in (0, 1)):
        raise WeightsError(f"damaged HDF5: a dataspace of version {version}, rank {rank}, kind {kind}.")
    if version == 1:
        fields.raw(4)
    shape = fields.numbers(*[8] * rank)
    if flags & 1:
        most = fields.numbers(*[8] * rank)
        if any(size > limit for size, limit in zip(shape, most)):
            raise WeightsError(f"damaged HDF5: a shape {shape} beyond its own limit {most}.")
    return shape


def read_type(data: bytes) -> Type:
    """Return the type in a datatype message; little-endian numbers, text and bytes are known."""
    fields = Fields(data, "a datatype")
    head, bits, size = fields.numbers(1, 3, 4)
    version, kind = head >> 4, head & 15
    if version not in (1, 2, 3) or size == 0:
        raise WeightsError(f"damaged HDF5: a datatype of version {version} with {size} bytes.")
    if kind == _FLOAT:
        return Type(size, _float(fields, bits, size))
    if kind == _FIXED:
        offset, precision = fields.numbers(2, 2)
        if bits & ~8 or offset or precision != 8 * size or size not in (1, 2, 4, 8):
            raise WeightsError("an HDF5 integer that is not little-endian of 1, 2, 4 or 8 bytes is not read.")
        return Type(size, np.dtype(f"<{'i' if bits & 8 else 'u'}{size}"))
    if kind in (_STRING, _OPAQUE):
        return Type(size, np.dtype(f"{'S' if kind == _STRING else 'V'}{size}"))
    if kind == _VARIABLE and bits & 15 == 1 and size == 16:
        return Type(size, None)
    raise WeightsError(f"an HDF5 datatype of class {kind} is not read; expected numbers or text.")


def _float(fields: Fields, bits: int, size: int) -> np.dtype:
    offset, precision = fields.numbers(2, 2)
    exponent, exponent_size, mantissa, mantissa_size, bias = fields.numbers(1, 1, 1, 1, 4)
    ours = (exponent, exponent_size, mantissa_size, bias)
    # Bit 0 and 6: byte order; bits 4 and 5: the leading one is implied; from bit 8 on: where the sign is.
    plain = bits == 0x20 | (8 * size - 1) << 8 and offset == 0 and precision == 8 * size and mantissa == 0
    if not plain or ours != _IEEE.get(size):
        raise WeightsError("an HDF5 float that is not little-endian IEEE 754 of 2, 4 or 8 bytes is not read.")
    return np.dtype(f"<f{size}")


def read_layout(data: bytes) -> Layout:
    """Return where a dataset's values lie, from its layout message."""
    fields = Fields(data, "a data layout")
    version, kind = fields.numbers(1, 1)
    if kind == _VIRTUAL:
        raise WeightsError("an HDF5 virtual dataset, whose values lie in other files, is not read.")
    if version == 3 or (version == 4 and kind in (_COMPACT, _CONTIGUOUS)):
        if kind == _COMPACT:
            values = fields.raw(fields.number(2))
            return Layout(0, len(values), values=values)
        if kind == _CONTIGUOUS:
            offset, size = fields.numbers(8, 8)
            return Layout(offset, size)
        if kind == _CHUNKED:
            rank, root = fields.numbers(1, 8)
            if not 1 < rank <= MAX_RANK + 1:
                raise WeightsError(f"damaged HDF5: chunks of {rank - 1} dimensions.")
            return Layout(root, 0, chunks=fields.numbers(*[4] * rank))
    raise WeightsError(
        f"an HDF5 data layout of version {version}, class {kind} is not read; save the file again with h5py's defaults."
    )


def read_filters(data: bytes) -> tuple[int, ...]:
    """Return the numbers of the filters that chunks went through, in the order of writing."""
    fields = Fields(data, "a filter pipeline")
    version, count = fields.numbers(1, 1)
    if version not in (1, 2) or count > 8:
        raise WeightsError(f"damaged HDF5: {count} filters, version {version}.")
    if version == 1:
        fields.raw(6)
    found = []
    for _ in range(count):
        number = fields.number(2)
        name_length = fields.number(2) if version == 1 or number >= 256 else 0
        _, values = fields.numbers(2, 2)
        fields.raw(-(-name_length // 8) * 8 if version == 1 else name_length)
        fields.raw(4 * values)
        if version == 1 and values % 2:
            fields.raw(4)
        found.append(number)
    return tuple(found)


def read_attribute(data: bytes) -> tuple[str, Attribute | None]:
    """Return an attribute's name and the attribute; None for a type that is not read."""
    fields = Fields(data, "an attribute")
    version, flags, name_size, type_size, space_size = fields.numbers(1, 1, 2, 2, 2)
    if version not in (1, 2, 3):
        raise WeightsError(f"damaged HDF5: an attribute of version {version}.")
    if version == 3:
        fields.raw(1)

    def part(size: int) -> bytes:
        taken = fields.raw(size)
        if version == 1:
            fields.raw(-size % 8)
        return taken

    name, kind, space = read_text(part(name_size)), part(type_size), part(space_size)
    try:
        known = Attribute(read_type(kind), read_shape(space), fields.raw(fields.left)) if not flags & 3 else None
    except WeightsError:
        known = None  # only those that say how to read the tensors matter, and these are asked for by name
    return name, known


def read_link(data: bytes) -> tuple[str, int]:
    """Return the name of a link and the address of what it leads to.

    Raises:
      WeightsError: If it leads by a path, or out of the file.
    """
    fields = Fields(data, "a link")
    version, flags = fields.numbers(1, 1)
    if version != 1:
        raise WeightsError(f"damaged HDF5: a link of version {version}.")
    kind = fields.number(1) if flags & 8 else 0
    fields.raw((8 if flags & 4 else 0) + (1 if flags & 16 else 0))
    name = read_text(fields.raw(fields.number(1 << (flags & 3))))
    if kind:
        refuse_link(name, external=kind == 64)
    return name, fields.number(8)


def refuse_link(name: str, *, external: bool) -> None:
    """Raise the error for a link that is not to an object of this file.

    Args:
      name: The link's.
      external: Whether it leads into another file.
    """
    what = "an external link into another file" if external else "a soft link"
    raise WeightsError(f"{name[:80]!r} is {what}, which is not followed: it could lead anywhere.")


def read_text(data: bytes) -> str:
    """Return a text that may end before its bytes do."""
    try:
        return data.split(b"\0", 1)[0].decode()
    except UnicodeDecodeError as error:
        raise WeightsError(f"damaged HDF5: {data[:40]!r} is no text.") from error


def texts(attribute: Attribute | None, window: Window, collections: dict[int, dict[int, bytes]]) -> list[str] | None:
    """Return an attribute's texts, fixed in size or elsewhere in the file; None if it is no text.

    Args:
      attribute: From `read_attribute`.
      window: The file.
      collections: What was read of the file's texts already, by the address of their collection.
    """
    if attribute is None or (attribute.type.dtype is not None and attribute.type.dtype.kind != "S"):
        return None
    count, size = 1, attribute.type.size
    for length in attribute.shape:
        count *= length
    if count * size > len(attribute.data):
        raise WeightsError(f"damaged HDF5: {count} texts of {size} bytes in {len(attribute.data)} bytes.")
    pieces = [attribute.data[i * size : (i + 1) * size] for i in range(count)]
    if attribute.type.dtype is None:
        window.work(count)
        pieces = [_elsewhere(piece, window, collections) for piece in pieces]
    return [read_text(piece) for piece in pieces]


def _elsewhere(piece: bytes, window: Window, collections: dict[int, dict[int, bytes]]) -> bytes:
    length, address, index = Fields(piece, "a reference to a text").numbers(4, 8, 4)
    if length == 0 or address in (0, UNDEFINED):
        return b""
    if address not in collections:
        collections[address] = _collection(address, window)
    found = collections[address].get(index)
    if found is None or len(found) < length:
        raise WeightsError("damaged HDF5: a text is not where its reference says.")
    return found[:length]


def _collection(address: int, window: Window) -> dict[int, bytes]:
    """Return the objects of a global heap collection by their numbers."""
    head = window.fields(address, 16, "a collection of texts")
    head.expect(b"GCOL\x01\0\0\0")
    fields = window.fields(address + 16, max(0, head.number(8) - 16), "a collection of texts")
    found: dict[int, bytes] = {}
    while fields.left >= 16:
        window.work(1)
        index, _, _, size = fields.numbers(2, 2, 4, 8)
        if index == 0:  # what is left is free
            break
        found[index] = fields.raw(size)
        fields.align()
    return found
