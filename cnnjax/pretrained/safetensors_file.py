"""safetensors: eight bytes of length, a JSON header, and the arrays one after the other."""

import pathlib
from typing import Any

from cnnjax.pretrained.tensors import (
    MAX_TENSORS,
    SourceFile,
    SourceTensor,
    WeightsError,
    checked_size,
    parse_json,
    read_array,
)
from cnnjax.safetensors import DTYPES

# The format's own limit is 100 MB; 100,000 tensors take about a tenth of it.
_MAX_HEADER = 32 << 20


def open_safetensors(path: pathlib.Path) -> SourceFile:
    """Return the tensors of a safetensors file.

    Args:
      path: The file.
    Raises:
      WeightsError: If its header does not describe exactly the bytes that follow it.
    References:
      https://github.com/huggingface/safetensors#format
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise WeightsError(f"its header claims {length} bytes, the file has {size}.")
        entries = _parse(file.read(length))
    begin = 8 + length
    tensors: dict[str, SourceTensor] = {}
    ends: list[tuple[int, int]] = []
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        tensor, first, last = _tensor(path, name, entry, begin, size - begin)
        tensors[name] = tensor
        ends.append((first, last))
    position = 0
    for first, last in sorted(ends):
        if first != position:
            raise WeightsError(f"its tensors overlap or leave a gap at byte {min(first, position)}.")
        position = last
    if position != size - begin:
        raise WeightsError(f"its tensors end at byte {position}, the file at {size - begin}.")
    return SourceFile(path, "safetensors", tensors)


def _parse(header: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise WeightsError("a name is in its header more than once.")
        return result

    entries = parse_json(header, "its header", unique)
    if not isinstance(entries, dict) or len(entries) > MAX_TENSORS:
        raise WeightsError(f"expected a header with at most {MAX_TENSORS} tensors.")
    return entries


def _tensor(path: pathlib.Path, name: str, entry: Any, begin: int, available: int) -> tuple[SourceTensor, int, int]:
    """Return a tensor and where it lies, after checking what the header says of it."""
    fields = {"dtype", "shape", "data_offsets"}
    shown = name[:80]
    if not isinstance(entry, dict) or entry.keys() != fields:
        raise WeightsError(f"{shown}: expected dtype, shape and data_offsets in its header.")
    shape, offsets = entry["shape"], entry["data_offsets"]
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise WeightsError(f"{shown}: expected one of {', '.join(DTYPES)}, got {str(entry['dtype'])[:20]}.")
    if not isinstance(shape, list) or not isinstance(offsets, list) or [type(n) for n in offsets] != [int, int]:
        raise WeightsError(f"{shown}: expected a list of sizes and two offsets.")
    nbytes = checked_size(name, tuple(shape), dtype, available)
    first, last = offsets
    if not (0 <= first <= last <= available and last - first == nbytes):
        raise WeightsError(f"{shown}: expected {nbytes} bytes, its offsets are {first} and {last} of {available}.")
    return (
        SourceTensor(name, tuple(shape), dtype, lambda: read_array(path, begin + first, tuple(shape), dtype)),
        first,
        last,
    )
