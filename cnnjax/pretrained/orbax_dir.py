"""Orbax's checkpoint folders: a JSON list of the arrays, and each array as zarr inside an OCDBT store or a folder."""

import math
import pathlib
from typing import Any

import numpy as np

from cnnjax.pretrained.tensors import MAX_TENSORS, SourceFile, SourceTensor, WeightsError, checked_size, parse_json
from cnnjax.safetensors import DTYPES

_METADATA = "_METADATA"
_MAX_METADATA, _MAX_FILES = 32 << 20, 200_000
# Arrays are compressed; more than this beyond a constant is a bomb, as in zip archives.
_GROWTH, _FREE = 50, 16 << 20
# What Orbax and zarr's own tools write, as far as it is unpacked piece by piece; blosc takes what memory it claims.
_CODECS = {"zlib", "gzip", "bz2", "zstd", "bytes", "crc32c", "sharding_indexed"}


def open_orbax(path: pathlib.Path) -> SourceFile:
    """Return the arrays of an Orbax checkpoint, their names joined by slashes.

    Args:
      path: The folder of a tree, or of a step with exactly one tree inside (`default`, `arrays`, `params`).
    Raises:
      WeightsError: If it is no such folder, is damaged, or has links.
    """
    folders = [path] if (path / _METADATA).is_file() else sorted(p.parent for p in path.glob(f"*/{_METADATA}"))
    if len(folders) != 1:
        found = f" It has {', '.join(p.name for p in folders[:4])}: name one." if folders else ""
        raise WeightsError(f"it is a folder, but not of one Orbax checkpoint ({_METADATA} is missing in it).{found}")
    folder = folders[0]
    room = _GROWTH * _size_without_links(folder) + _FREE
    names, ocdbt, version = _read_metadata(folder / _METADATA)
    tensors: dict[str, SourceTensor] = {}
    for keys in names:
        name = "/".join(keys)
        if name in tensors:
            raise WeightsError(f"{name[:80]} is in it more than once.")
        tensor = _tensor(folder, name, ".".join(keys), ocdbt, version, room)
        room -= tensor.nbytes
        tensors[name] = tensor
    if not tensors:
        raise WeightsError("there are no arrays in it.")
    return SourceFile(path, "orbax", tensors)


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
        raise WeightsError(f"its {_METADATA} is larger than that of any file of weights.")
    content = parse_json(path.read_bytes(), f"its {_METADATA}")
    try:
        entries = list(content["tree_metadata"].values())
        names = [[str(part["key"]) for part in entry["key_metadata"]] for entry in entries]
        empty = [entry["value_metadata"]["skip_deserialize"] for entry in entries]
        ocdbt, version = bool(content.get("use_ocdbt", True)), "zarr3" if content.get("use_zarr3") else "zarr"
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"its {_METADATA} is damaged.") from error
    names = [keys for keys, skipped in zip(names, empty, strict=True) if not skipped]
    if len(names) > MAX_TENSORS or any(not keys or ".." in "/".join(keys).split("/") for keys in names):
        raise WeightsError(f"its {_METADATA} names too many arrays, or one that lies outside the folder.")
    return names, ocdbt, version


def _tensor(folder: pathlib.Path, name: str, key: str, ocdbt: bool, version: str, room: int) -> SourceTensor:
    """Return one array, its shape and type read from the store, its values not yet."""
    import tensorstore  # Orbax's own storage library; takes a moment to import

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
    if dtype not in DTYPES.values():
        raise WeightsError(f"{name[:80]}: expected numbers, found {dtype}.")
    if codecs:
        raise WeightsError(f"{name[:80]}: expected rows first, little-endian, in zstd or gzip; found {codecs[0]!r}.")
    checked_size(name, shape, dtype, room)
    if chunk > room:
        raise WeightsError(f"{name[:80]}: it claims pieces of {chunk} bytes.")

    def fetch() -> np.ndarray:
        try:
            return np.ascontiguousarray(array.read().result()).reshape(shape)
        except Exception as error:
            raise WeightsError(f"{name}: it is damaged ({_reason(error)}).") from error

    return SourceTensor(name, shape, dtype, fetch)


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
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(" [", 1)[0][:120].rstrip(".")
