"""HDF5 by h5py: what leads out of the file or claims too much is refused before any value is read."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5o, h5t  # pyright: ignore[reportAttributeAccessIssue]  written in C

from cnnjax.pretrained.readers import (
    CODES,
    GROWTH,
    ITEM_SIZES,
    MAX_DEPTH,
    MAX_NAME,
    Tensor,
    WeightsError,
    checked_size,
    short,
)

# ResNet-152's file has some 2,000 groups and datasets, with Adam's state 3,200.
_MOST_OBJECTS = 8_000
_FREE, _HEADER = 1 << 20, 16  # bytes that every object's header has at least
# Attributes whose texts are read: what their names begin with.
_ATTRIBUTES = ("layer_names", "weight_names", "name", "model_config")
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}


@dataclass(frozen=True)
class Dataset:
    """An array in the file, not read yet: its shape, safetensors' name of its type, and h5py's handle."""

    shape: tuple[int, ...]
    code: str
    handle: h5py.Dataset

    def tensor(self, name: str) -> Tensor:
        """Return it as a tensor of a name."""
        if self.code not in ITEM_SIZES:
            raise WeightsError(f"{name}: expected numbers, got {self.code}.")
        checked_size(name, self.shape, ITEM_SIZES[self.code], np.iinfo(np.int64).max)  # against the file: before
        return Tensor(name, self.code, self.shape, lambda: [self._bytes(name)])

    def _bytes(self, name: str) -> Any:
        with _damage(f"{name}: "):
            values = np.asarray(self.handle[()])
        return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


@dataclass(frozen=True)
class Group:
    """Named groups and datasets, and the attributes that are texts."""

    children: "dict[str, Group | Dataset]" = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)

    def group(self, name: str) -> "Group | None":
        """Return the group of that name, or None."""
        found = self.children.get(name)
        return found if isinstance(found, Group) else None

    def at(self, path: str) -> "Group | Dataset | None":
        """Return what is at a path of names with slashes between them, or None."""
        found: Group | Dataset | None = self
        for part in path.split("/"):
            found = found.children.get(part) if isinstance(found, Group) else None
        return found


def read_hdf5(source: Any) -> Group:
    """Return the root group with all that is below it; of datasets, only where their values are.

    Args:
      source: The path of a file, or a file in memory.
    Raises:
      WeightsError: If it is damaged, leads out of itself, or claims what it does not have.
    """
    with _damage(""):
        file = h5py.File(source, "r")  # to the end of the process
        walk = _Walk()
        root = walk.group(file, "", 0)
        walk.check_extents(file.id.get_filesize())
        return root


class _Walk:
    """Visits every object of a file once."""

    def __init__(self) -> None:
        self._seen: set[Any] = set()
        self._linked = 0
        self._extents: list[tuple[int, int, str]] = []

    def group(self, group: h5py.Group, name: str, depth: int) -> Group:
        if depth > MAX_DEPTH:
            raise WeightsError(f"{name[:200]!r} is one group too deep.")
        self._linked += group.id.get_num_objs()
        if self._linked > _MOST_OBJECTS:  # before any of them is read
            raise WeightsError(
                f"an HDF5 file of more than {_MOST_OBJECTS:,} groups and datasets is not read; no net's has so many."
            )
        names: list[Any] = list(group)
        children = {child: self._child(group, child, f"{name}/{child}", depth) for child in names}
        return Group(children, dict(_texts(group)))

    def _child(self, group: Any, child: str, name: str, depth: int) -> Group | Dataset:
        link = group.get(child, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise WeightsError(f"{child[:200]!r} is an external link into another file, which is not followed.")
        if isinstance(link, h5py.SoftLink):
            raise WeightsError(f"{child[:200]!r} is a soft link, which is not followed.")
        info = h5o.get_info(group.id, child.encode("utf-8", "surrogateescape"))
        if info.addr in self._seen:
            raise WeightsError(f"{name[:200]!r} is reached twice.")
        self._seen.add(info.addr)
        self._extents.append((info.addr, info.addr + _HEADER, f"the header of {name}"))
        if info.type == h5o.TYPE_GROUP:
            return self.group(group[child], name, depth + 1)
        if info.type != h5o.TYPE_DATASET:
            raise WeightsError(f"{name[:200]!r} is neither a group nor a dataset.")
        try:
            return self._dataset(h5d.open(group.id, child.encode("utf-8", "surrogateescape")), name)
        except WeightsError as error:
            raise WeightsError(f"{name[:MAX_NAME]}: {error}") from error

    def _dataset(self, handle: h5d.DatasetID, name: str) -> Dataset:
        made = handle.get_create_plist()
        if made.get_layout() == h5d.VIRTUAL:
            raise WeightsError("a virtual dataset, whose values lie in other files, is not read.")
        if made.get_external_count():
            raise WeightsError("a dataset with its values in another file is not read.")
        filters = {made.get_filter(n)[0] for n in range(made.get_nfilters())}
        if other := filters - _FILTERS:
            raise WeightsError(f"values that went through HDF5's filter {min(other)} are not read; expected gzip.")
        shape, kind = handle.shape, handle.dtype
        # One flipped bit of a type makes other numbers of the same bytes.
        if kind.kind in "fiu" and handle.get_type() != h5t.py_create(kind.newbyteorder("<")):
            raise WeightsError(f"{kind} that is not little-endian, or in a form of its own, is not read.")
        code = "BF16" if kind == np.dtype("V2") else CODES.get(kind.name, str(kind))  # Keras: as plain bytes
        stored, size = handle.get_storage_size(), math.prod(shape) * kind.itemsize
        if size and not stored:
            raise WeightsError("its values were never written.")
        if size > (GROWTH * stored + _FREE if filters else stored):
            raise WeightsError(f"claims {size:,} bytes, its chunks have {stored:,}.")
        begin = handle.get_offset()  # of what lies in one piece
        if begin is not None and size:
            self._extents.append((begin, begin + size, name))
        return Dataset(shape, code, h5py.Dataset(handle))

    def check_extents(self, size: int) -> None:
        """Refuse datasets that lie on the same bytes, or outside of the file."""
        last, before = 0, ""
        for begin, end, name in sorted(self._extents):
            if end > size:
                raise WeightsError(f"{name[:MAX_NAME]}: damaged HDF5: it lies outside of the file.")
            if begin < last:
                raise WeightsError(f"{before} and {name} lie on the same bytes.")
            last, before = end, name


def _texts(group: h5py.Group) -> Iterator[tuple[str, list[str]]]:
    for name in group.attrs:
        if name.startswith(_ATTRIBUTES):
            value: Any = group.attrs[name]
            values = value.ravel().tolist() if isinstance(value, np.ndarray) else [value]
            if all(isinstance(v, str | bytes) for v in values):
                yield name, [v if isinstance(v, str) else v.decode() for v in values]


@contextlib.contextmanager
def _damage(where: str) -> Iterator[None]:
    """Say in one line what h5py makes of a damaged file."""
    try:
        yield
    except (WeightsError, MemoryError):
        raise
    except Exception as error:
        raise WeightsError(f"{where}damaged HDF5 ({short(error)}).") from error
