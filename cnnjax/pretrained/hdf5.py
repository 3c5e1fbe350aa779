"""A reader of the part of HDF5 that Keras writes: bounded in work and memory, and never led out of the file.

The C library reads everything, and follows a damaged file into endless loops and crashes. This reads groups of named
links and plain arrays, checks every address against the file, visits no object twice, and refuses what it does not
know in one sentence.

References:
  https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html, the file format.
"""

import contextlib
import io
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from cnnjax.pretrained.hdf5_bytes import Window, checksum
from cnnjax.pretrained.hdf5_messages import (
    Attribute,
    Layout,
    read_attribute,
    read_filters,
    read_layout,
    read_shape,
    read_type,
    texts,
)
from cnnjax.pretrained.hdf5_objects import ATTRIBUTE, FILTERS, LAYOUT, SHAPE, TYPE, Message, read_header, read_links
from cnnjax.pretrained.hdf5_values import check_values, read_values
from cnnjax.pretrained.tensors import WeightsError

_MAGIC = b"\x89HDF\r\n\x1a\n"
_DEEPEST = 32
# ResNet-152's file has some 2,000 groups and datasets, with Adam's state 3,200; each takes about a tenth of a
# millisecond to read.
_MOST_OBJECTS = 8_000

Source = pathlib.Path | bytes


@dataclass(frozen=True)
class Dataset:
    """An array in the file, not read yet.

    Args:
      shape: As the file says, checked against its bytes.
      dtype: NumPy's, little-endian; `V2` where the type is of plain bytes.
      texts: Its attributes that are texts, by name.
      source: The file, or its content.
      extent: The part of it that is HDF5, first byte and size.
      layout: Where the values lie.
      filters: What chunks went through.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    texts: dict[str, list[str]]
    source: Source
    extent: tuple[int, int]
    layout: Layout
    filters: tuple[int, ...] = ()

    def read(self) -> np.ndarray:
        """Return the values.

        Raises:
          WeightsError: If the file no longer holds them, or a chunk is damaged.
        """
        with _window(self.source, self.extent) as window:
            return read_values(window, self.shape, self.dtype, self.layout, self.filters)


@dataclass(frozen=True)
class Group:
    """Named groups and datasets.

    Args:
      children: By name, in the order of the names' bytes.
      texts: Its attributes that are texts, by name.
    """

    children: "dict[str, Group | Dataset]" = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)

    def group(self, name: str) -> "Group | None":
        """Return the group of that name, or None."""
        found = self.children.get(name)
        return found if isinstance(found, Group) else None


def read_hdf5(source: Source, *, attributes: tuple[str, ...], extent: tuple[int, int] | None = None) -> Group:
    """Return the root group with all that is below it; of datasets, only where their values are.

    Args:
      source: The file, or its content.
      attributes: What the names of the attributes to read begin with.
      extent: The part of it that is an HDF5 file, first byte and size; None for all of it.
    Raises:
      WeightsError: If it is damaged, or made with what is not read here.
    """
    with _window(source, extent) as window:
        return _Reader(window, source, attributes).root()


@contextlib.contextmanager
def _window(source: Source, extent: tuple[int, int] | None) -> Iterator[Window]:
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        start, count = extent or (0, size)
        if start + count > size:
            raise WeightsError("the file is shorter than when it was opened.")
        yield Window(file, start, count)


class _Reader:
    """Walks one file, once."""

    def __init__(self, window: Window, source: Source, attributes: tuple[str, ...]) -> None:
        self._window, self._source, self._attributes = window, source, attributes
        self._seen: set[int] = set()
        self._linked = 0
        self._collections: dict[int, dict[int, bytes]] = {}
        self._extents: list[tuple[int, int, str]] = []

    def root(self) -> Group:
        found = self._object(_root_address(self._window), "", 0)
        if not isinstance(found, Group):
            raise WeightsError("damaged HDF5: the root is no group.")
        self._window.check_disjoint(self._extents)
        return found

    def _object(self, address: int, name: str, depth: int) -> Group | Dataset:
        if address in self._seen or depth > _DEEPEST:
            raise WeightsError(f"damaged HDF5: {name[:200]!r} is reached twice, or is one object too deep.")
        self._seen.add(address)
        messages = read_header(self._window, address)
        links = read_links(self._window, messages)
        if links is None:
            return self._dataset(messages, name)
        self._linked += len(links)
        if self._linked > _MOST_OBJECTS:  # before any of them is read
            raise WeightsError(
                f"an HDF5 file of more than {_MOST_OBJECTS:,} groups and datasets is not read; no net's has so many."
            )
        children = {child: self._object(at, f"{name}/{child}", depth + 1) for child, at in sorted(links.items())}
        return Group(children, self._texts(messages))

    def _dataset(self, messages: list[Message], name: str) -> Dataset:
        kinds = {kind: data for kind, data in messages if kind in (SHAPE, TYPE, LAYOUT, FILTERS)}
        if not {SHAPE, TYPE, LAYOUT} <= kinds.keys():
            raise WeightsError(f"damaged HDF5: {name[:200] or '/'!r} is neither a group nor a whole dataset.")
        try:
            kind = read_type(kinds[TYPE])
            if kind.dtype is None:
                raise WeightsError("a dataset of texts is not read.")
            shape, layout = read_shape(kinds[SHAPE]), read_layout(kinds[LAYOUT])
            filters = read_filters(kinds[FILTERS]) if FILTERS in kinds else ()
            extents = check_values(self._window, shape, kind.dtype, layout, filters)
        except WeightsError as error:
            raise WeightsError(f"{name[:200]}: {error}") from error
        self._extents += [(begin, end, name) for begin, end in extents]
        extent = (self._window.start, self._window.size)
        return Dataset(shape, kind.dtype, self._texts(messages), self._source, extent, layout, filters)

    def _texts(self, messages: list[Message]) -> dict[str, list[str]]:
        found: dict[str, Attribute] = {}
        for kind, data in messages:
            if kind == ATTRIBUTE and len(data) > 8:
                name, attribute = read_attribute(data)
                if name in found:
                    raise WeightsError(f"damaged HDF5: the attribute {name[:80]!r} is there twice.")
                if attribute and name.startswith(self._attributes):
                    found[name] = attribute
        decoded = {name: texts(attribute, self._window, self._collections) for name, attribute in found.items()}
        return {name: value for name, value in decoded.items() if value is not None}


def _root_address(window: Window) -> int:
    """Return the address of the root group, from the superblock."""
    fields = window.fields(0, 9, "the superblock")
    fields.expect(_MAGIC)
    version = fields.number(1)
    if version in (0, 1):
        fields = window.fields(9, 95 if version == 1 else 87, "the superblock")
        fields.raw(4)
        sizes = fields.numbers(1, 1)
        fields.raw(13 if version == 1 else 9)
        base, _, end, _, _, root = fields.numbers(8, 8, 8, 8, 8, 8)
    elif version in (2, 3):
        fields = window.fields(9, 39, "the superblock")
        sizes = fields.numbers(1, 1)
        fields.raw(1)
        base, _, end, root = fields.numbers(8, 8, 8, 8)
        if fields.number(4) != checksum(window.take(0, 44, "the superblock")):
            raise WeightsError("damaged HDF5: the checksum of the superblock is wrong.")
    else:
        raise WeightsError(f"an HDF5 superblock of version {version} is not read.")
    if sizes != (8, 8) or base != 0:
        raise WeightsError(
            "an HDF5 file with addresses of other than 8 bytes, or with something before it, is not read."
        )
    if end > window.size:
        raise WeightsError(f"the file is cut off: it has {window.size:,} of {end:,} bytes.")
    return root
