"""Orbax's checkpoint folders: a JSON list of the arrays, and each array as zarr inside an OCDBT store or a folder."""

import math
import pathlib
from typing import Any

import numpy as np
import tensorstore

from cnnjax.pretrained.readers import (
    CODES,
    FREE,
    GROWTH,
    ITEM_SIZES,
    MAX_TENSORS,
    ORBAX_METADATA,
    Content,
    Tensor,
    WeightsError,
    checked_size,
    parse_json,
    short,
)

_MAX_METADATA, _MAX_FILES = 32 << 20, 200_000
# What Orbax and zarr's own tools write, as far as it is unpacked piece by piece; blosc takes what memory it claims.
_CODECS = {"zlib", "gzip", "bz2", "zstd", "bytes", "crc32c", "sharding_indexed"}


def read(path: str, which: str = "") -> Content:
    """Return the arrays of an Orbax checkpoint, their names joined by slashes.

    Args:
      path: The folder of a tree, or of a step with exactly one tree inside (`default`, `arrays`, `params`).
      which: Of no use: it has one state.
    Raises:
      WeightsError: If it is not such a folder, is damaged, or has links.
    """
    place = pathlib.Path(path)
    whole = (place / ORBAX_METADATA).is_file()
    folders = [place] if whole else sorted(p.parent for p in place.glob(f"*/{ORBAX_METADATA}"))
    if len(folders) != 1:
        found = ", ".join(p.name for p in folders[:4])
        raise WeightsError(f"it is a folder, but not of one Orbax checkpoint. It has {found}: name one.")
    room = GROWTH * _size_without_links(folders[0]) + FREE
    names, ocdbt, version = _read_metadata(folders[0] / ORBAX_METADATA)
    tensors: dict[str, Tensor] = {}
    for keys in names:
        name = "/".join(keys)
        if name in tensors:
            raise WeightsError(f"{name[:80]} is in it more than once.")
        tensors[name] = tensor = _tensor(folders[0], name, ".".join(keys), ocdbt, version, room)
        room -= math.prod(tensor.shape) * ITEM_SIZES[tensor.code]
    if not tensors:
        raise WeightsError("there are no arrays in it.")
    return Content("orbax", list(tensors.values()))


def _size_without_links(folder: pathlib.Path) -> int:
    total = 0
    for count, path in enumerate(folder.rglob("*")):
        if path.is_symlink() or count > _MAX_FILES:
            raise WeightsError(f"{path.name!r} in it is a link." if path.is_symlink() else "it has too many files.")
        total += path.stat().st_size if path.is_file() else 0
    return total


def _read_metadata(path: pathlib.Path) -> tuple[list[list[str]], bool, str]:
    """Return the arrays' keys, whether they are in one OCDBT store, and zarr's version."""
    if path.stat().st_size > _MAX_METADATA:
        raise WeightsError(f"its {ORBAX_METADATA} is larger than that of any file of weights.")
    content = parse_json(path.read_bytes(), f"its {ORBAX_METADATA}")
    try:
        entries = list(content["tree_metadata"].values())
        names = [[str(part["key"]) for part in entry["key_metadata"]] for entry in entries]
        empty = [entry["value_metadata"]["skip_deserialize"] for entry in entries]
        ocdbt, version = bool(content.get("use_ocdbt", True)), "zarr3" if content.get("use_zarr3") else "zarr"
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"its {ORBAX_METADATA} is damaged.") from error
    names = [keys for keys, skipped in zip(names, empty, strict=True) if not skipped]
    if len(names) > MAX_TENSORS or any(not keys or ".." in "/".join(keys).split("/") for keys in names):
        raise WeightsError(f"its {ORBAX_METADATA} names too many arrays, or one that lies outside the folder.")
    return names, ocdbt, version


def _tensor(folder: pathlib.Path, name: str, key: str, ocdbt: bool, version: str, room: int) -> Tensor:
    """Return one array, its shape and type read from the store, its values not yet."""
    inside = folder.resolve()
    target = (inside / key).resolve()
    if not target.is_relative_to(inside):
        raise WeightsError(f"{name[:80]}: it lies outside the folder.")
    store: dict[str, Any] = {"driver": "file", "path": f"{target}/"}
    if ocdbt:
        store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{inside}/"}, "path": f"{key}/"}
    # A chunk that is missing is damage, not zeros.
    spec = {"driver": version, "kvstore": store, "fill_missing_data_reads": False, "recheck_cached_data": "open"}
    try:
        array = tensorstore.open(spec, open=True, read=True).result()
        codecs = sorted(_codecs(array.spec().to_json()["metadata"]) - _CODECS)
        shape, dtype = tuple(int(n) for n in array.shape), array.dtype.numpy_dtype
        chunk = math.prod(n or 1 for n in array.chunk_layout.read_chunk.shape or ()) * dtype.itemsize
    except Exception as error:  # whatever the storage library makes of damaged files
        raise WeightsError(f"{name[:80]}: it is missing or damaged ({_reason(error)}).") from error
    if dtype.name not in CODES:
        raise WeightsError(f"{name[:80]}: expected numbers, found {dtype}.")
    if codecs:
        raise WeightsError(f"{name[:80]}: expected rows first, little-endian, in zstd or gzip; found {codecs[0]!r}.")
    checked_size(name, shape, dtype.itemsize, room)
    if chunk > room:
        raise WeightsError(f"{name[:80]}: it claims pieces of {chunk} bytes.")

    def pieces() -> list[Any]:
        try:
            return [np.ascontiguousarray(array.read().result()).reshape(-1).view(np.uint8)]
        except Exception as error:
            raise WeightsError(f"{name}: it is damaged ({_reason(error)}).") from error

    return Tensor(name, CODES[dtype.name], shape, pieces)


def _codecs(metadata: Any) -> set[str]:
    """Return how an array is stored: its codecs by their names in zarr 2 or 3, and what else changes its bytes."""
    found: set[str] = set()
    if metadata.get("zarr_format") == 2:
        found |= {
            str(part.get("id")) for part in (metadata.get("compressor"), *(metadata.get("filters") or ())) if part
        }
        found |= {"order F"} if metadata.get("order") != "C" else set()
        found |= {"big-endian"} if str(metadata.get("dtype")).startswith(">") else set()
        return found
    for codec in metadata["codecs"]:
        options = codec.get("configuration", {})
        found |= {codec["name"]} | ({"big-endian"} if options.get("endian", "little") != "little" else set())
        for inner in ("codecs", "index_codecs"):
            found |= _codecs({"codecs": options.get(inner, ())})
    return found


def _reason(error: Exception) -> str:
    return short(error).split(" [", 1)[0]
