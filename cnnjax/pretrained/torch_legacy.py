"""Files that torch.save wrote before 1.6: five pickles in a row, then the numbers of each storage."""

import io
import pathlib
from collections.abc import Callable
from typing import Any

from cnnjax.pretrained.pickles import MAX_PICKLE, read_pickle
from cnnjax.pretrained.tensors import MAX_TENSORS, SourceFile, WeightsError
from cnnjax.pretrained.torch_objects import Storage, storage_of
from cnnjax.pretrained.torch_state import make_source

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001


def open_torch_legacy(path: pathlib.Path) -> SourceFile:
    """Return the tensors of a file of torch's old form.

    Args:
      path: The file.
    Raises:
      WeightsError: If it is damaged or more than tensors.
    """
    storages: dict[str, Storage] = {}

    def persistent(persistent_id: Any) -> Storage:
        storage = storage_of(persistent_id)
        known = storages.setdefault(storage.key, storage)
        if (known.dtype, known.count) != (storage.dtype, storage.count):
            raise WeightsError(f"storage {storage.key[:40]!r} is said to be of two types or sizes.")
        return storage

    size = path.stat().st_size
    with path.open("rb") as file:
        pickles = io.BytesIO(file.read(MAX_PICKLE))
        if read_pickle(pickles) != _MAGIC or read_pickle(pickles) != _VERSION:
            raise WeightsError("it begins like a file of torch.save but is none.")
        system = read_pickle(pickles)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise WeightsError("expected numbers in little-endian order.")
        content = read_pickle(pickles, persistent)
        keys = read_pickle(pickles)
        if not isinstance(keys, list) or len(keys) > MAX_TENSORS or not all(isinstance(key, str) for key in keys):
            raise WeightsError("its list of storages is damaged.")
        begins = _find_storages(file, pickles.tell(), size, keys, storages)

    def locate(storage: Storage) -> tuple[int, Callable[[int, int], bytes]]:
        if storage.key not in begins:
            raise WeightsError(f"the numbers of storage {storage.key[:40]!r} are missing.")
        begin = begins[storage.key]
        return storage.count * storage.dtype.itemsize, lambda offset, count: _read(path, begin + offset, count)

    return make_source(path, content, locate)


def _find_storages(
    file: Any, position: int, size: int, keys: list[str], storages: dict[str, Storage]
) -> dict[str, int]:
    """Return where the numbers of each storage begin: a count of eight bytes stands before them."""
    begins: dict[str, int] = {}
    for key in keys:
        if key not in storages or key in begins:
            raise WeightsError(
                f"its list of storages names {key[:40]!r}, which no tensor uses or which was there before."
            )
        storage = storages[key]
        file.seek(position)
        count = int.from_bytes(file.read(8), "little", signed=True)
        end = position + 8 + storage.count * storage.dtype.itemsize
        if count != storage.count or end > size:
            raise WeightsError(
                f"storage {key[:40]!r} has {count} numbers in {max(0, size - position - 8)} bytes, "
                f"expected {storage.count}."
            )
        begins[key] = position + 8
        position = end
    if position != size:
        raise WeightsError(f"expected the file to end with its last storage, {size - position} bytes follow.")
    return begins


def _read(path: pathlib.Path, offset: int, count: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        piece = file.read(count)
    if len(piece) != count:
        raise WeightsError("it is shorter than when it was opened.")
    return piece
