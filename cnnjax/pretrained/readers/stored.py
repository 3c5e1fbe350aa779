"""safetensors: one file, or several with an index. Safe to read without a child: bytes and one JSON header.

Its library maps a file into memory, where one that another process cuts off ends this one; a header is checked here
in any case, so the values are read from the file as they are.
"""

import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cnnjax.pretrained.readers import MAX_HEADER, MAX_TENSORS, WeightsError, checked_size, parse_json
from cnnjax.safetensors import DTYPES

_INDEX = ".index.json"
# Folders that a training makes as it goes on: of a run of ours in `checkpoints`, of others beside each other.
_CHECKPOINT = re.compile(r"(?:step|checkpoint)-\d.*")
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors")


class Place(NamedTuple):
    """Where a tensor lies behind a header."""

    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def open_safetensors(path: pathlib.Path) -> dict[str, tuple[tuple[int, ...], np.dtype, Callable[[], np.ndarray]]]:
    """Return shape, type and reader of each tensor of a safetensors file, in its order.

    Raises:
      WeightsError: If its header does not describe exactly the bytes that follow it.
    References:
      https://github.com/huggingface/safetensors#format
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise WeightsError(f"its header claims {length} bytes, the file has {size}.")
        places, _ = parse_header(file.read(length), size - 8 - length)

    def fetch(place: Place) -> np.ndarray:
        with path.open("rb") as file:
            file.seek(8 + length + place.begin)
            values = np.fromfile(file, np.uint8, place.end - place.begin)
        if values.size != place.end - place.begin:
            raise WeightsError("it is shorter than when it was opened.")
        return values.view(place.dtype).reshape(place.shape)

    return {name: (place.shape, place.dtype, lambda place=place: fetch(place)) for name, place in places.items()}


def parse_header(header: bytes, available: int | None = None) -> tuple[dict[str, Place], dict[str, str]]:
    """Return where each tensor lies and the texts of the metadata, after checking every word of a header.

    Args:
      header: JSON.
      available: Bytes behind it, which the tensors fill; None if they are still to come.
    Raises:
      WeightsError: If it lies.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise WeightsError("a name is in its header more than once.")
        return result

    entries = parse_json(header, "its header", unique)
    if not isinstance(entries, dict) or len(entries) > MAX_TENSORS + 1:
        raise WeightsError(f"expected a header with at most {MAX_TENSORS} tensors.")
    metadata = entries.pop("__metadata__", {})
    room = 1 << 62 if available is None else available
    places = {name: _place(name, entry, room) for name, entry in entries.items()}
    position = 0
    for _, _, begin, end in sorted(places.values(), key=lambda place: place[2:]):
        if begin != position:
            raise WeightsError(f"its tensors overlap or leave a gap at byte {min(begin, position)}.")
        position = end
    if available is not None and position != available:
        raise WeightsError(f"its tensors end at byte {position}, the file at {available}.")
    return places, metadata


def _place(name: str, entry: Any, room: int) -> Place:
    shown = name[:80]
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise WeightsError(f"{shown}: expected dtype, shape and data_offsets in its header.")
    shape, offsets = entry["shape"], entry["data_offsets"]
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise WeightsError(f"{shown}: expected one of {', '.join(DTYPES)}, got {str(entry['dtype'])[:20]}.")
    if not isinstance(shape, list) or not isinstance(offsets, list) or [type(n) for n in offsets] != [int, int]:
        raise WeightsError(f"{shown}: expected a list of sizes and two offsets.")
    nbytes = checked_size(name, tuple(shape), dtype.itemsize, room)
    begin, end = offsets
    if not (0 <= begin <= end <= room and end - begin == nbytes):
        raise WeightsError(f"{shown}: expected {nbytes} bytes, its offsets are {begin} and {end} of {room}.")
    return Place(dtype, tuple(shape), begin, end)


def parts_of(path: pathlib.Path) -> dict[pathlib.Path, set[str] | None]:
    """Return the files that hold the weights of a folder or an index, with the names that the index gives each.

    Args:
      path: A folder with an index, or with one safetensors file or all parts of one; or an index.
    Raises:
      WeightsError: If it is neither, or a part is missing.
    """
    if path.is_dir():
        indexes, files = sorted(path.glob(f"*{_INDEX}")), sorted(path.glob("*.safetensors"))
        if len(indexes) == 1:
            return parts_of(indexes[0])
        parts = [found for found in map(_PART.fullmatch, (file.name for file in files)) if found]
        expected = {f"{p[1]}-{n:05}-of-{p[3]}.safetensors" for p in parts[:1] for n in range(1, int(p[3]) + 1)}
        if missing := expected - {file.name for file in files}:
            raise WeightsError(f"{min(missing)} of its {len(expected)} parts is missing.")
        if len(files) == 1 or (expected and len(expected) == len(files)):
            return dict.fromkeys(files, None)
        if not files and (newest := _newest(path)):
            return parts_of(newest)
        found = ", ".join(file.name for file in (*indexes, *files)[:4])
        raise WeightsError(
            "it is a folder, but not of one Orbax checkpoint (_METADATA is missing in it), and not of one net in "
            f"safetensors either.{f' It has {found}: name one.' if found else ''}"
        )
    content = parse_json(path.read_bytes()[: MAX_HEADER + 1], "its index")
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not names:
        raise WeightsError("it is JSON, but not an index of weights (no weight_map).")
    named: dict[pathlib.Path, Any] = {}
    for name, file in names.items():
        if not isinstance(file, str) or not file or pathlib.PurePath(file).name != file or "\\" in file:
            raise WeightsError(f"its index names a file outside its folder, {str(file)[:80]!r}.")
        named.setdefault(path.parent / file, set()).add(name)
    return named


def _newest(path: pathlib.Path) -> pathlib.Path | None:
    """Return the newest checkpoint in a training's folder: that with the highest numbers in its name."""
    found = [p for folder in (path, path / "checkpoints") for p in folder.glob("*") if _CHECKPOINT.fullmatch(p.name)]
    numbers = {p: ([int(n) for n in re.findall(r"\d{1,18}", p.name)], len(p.name)) for p in found if p.is_dir()}
    return max(numbers, key=numbers.__getitem__, default=None)
