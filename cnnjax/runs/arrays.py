"""Named arrays as the bytes of a safetensors file, and back: a format that many programs read, and no other does less.

A checkpoint's bytes are known to be those that were written before they are taken apart here, so there is no defence
against hostile files; `cnnjax.pretrained` has a reader for those.
"""

import json
from collections.abc import Iterator

import ml_dtypes
import numpy as np

Flat = dict[str, np.ndarray]

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "C64": np.dtype(np.complex64),
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
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


def to_pieces(arrays: Flat) -> Iterator[bytes | memoryview]:
    """Give the parts of the file that holds some arrays, the same for equal arrays in whatever order.

    Args:
      arrays: Every array by its name.
    Raises:
      ValueError: If an array's type has no place in the format.
    References:
      https://github.com/huggingface/safetensors#format
    """
    ordered = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))  # so that each is aligned
    header: dict[str, object] = {}
    position = 0
    for name in ordered:
        array = arrays[name]
        code = _CODES.get(array.dtype.newbyteorder("=") if array.dtype.byteorder == ">" else array.dtype)
        if code is None:
            raise ValueError(f"{name} is {array.dtype}, expected one of {', '.join(map(str, _CODES))}")
        end = position + array.size * array.dtype.itemsize
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in ordered:
        yield little_endian(arrays[name]).reshape(-1).view(np.uint8).data


def from_bytes(content: np.ndarray) -> Flat:
    """Return the arrays of a file, as views of its content.

    Args:
      content: uint8, the whole file.
    Raises:
      ValueError: If it is no such file.
    """
    length = int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8 : 8 + length].tobytes())
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape, dtype = tuple(entry["shape"]), _DTYPES[entry["dtype"]]
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        arrays[name] = content[begin:end].view(dtype).reshape(shape)
    return arrays


def little_endian(array: np.ndarray) -> np.ndarray:
    """Return the array in one piece, in C order, its numbers' lowest byte first."""
    array = np.ascontiguousarray(array).reshape(array.shape)  # which makes a scalar a vector
    return array.astype(array.dtype.newbyteorder("<")) if array.dtype.byteorder == ">" else array
