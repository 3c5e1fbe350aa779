"""The safetensors format: its types, and the bytes of a file that holds some arrays."""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

_MAX_HEADER = 32 << 20
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


def to_pieces(
    arrays: Mapping[str, np.ndarray],
    *,
    dtypes: Mapping[str, np.dtype] = DTYPES,
    metadata: Mapping[str, str] | None = None,
) -> Iterator[bytes | memoryview]:
    """Give the parts of the file that holds some arrays, the same for equal arrays in whatever order.

    Args:
      arrays: Every array by its name, the lowest byte of its numbers first.
      dtypes: The types that may come, by the format's names for them.
      metadata: Texts for the header.
    Raises:
      ValueError: If an array's type is another.
    References:
      https://github.com/huggingface/safetensors#format
    """
    codes = {dtype: code for code, dtype in dtypes.items()}
    ordered = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))  # so that each is aligned
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    position = 0
    for name in ordered:
        array = arrays[name]
        if array.dtype not in codes:
            raise ValueError(f"{name} is {array.dtype}, expected one of {', '.join(map(str, codes))}")
        end = position + array.size * array.dtype.itemsize
        header[name] = {"dtype": codes[array.dtype], "shape": list(array.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in ordered:
        yield np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data


def read_metadata(path: pathlib.Path) -> dict[str, str]:
    """Return the texts in the header of a file whose format was checked; none of a file of another format."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= _MAX_HEADER else b""
    found = json.loads(header).get("__metadata__") if header[:1] == b"{" else None
    return {name: text for name, text in (found or {}).items() if isinstance(text, str)}
