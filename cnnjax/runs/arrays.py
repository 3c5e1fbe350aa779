"""Named arrays as the bytes of a safetensors file, and back: a format that many programs read, and no other does less.

A checkpoint's bytes are known to be those that were written before they are taken apart here, so there is no defence
against hostile files; `cnnjax.pretrained` has a reader for those.
"""

import json
from collections.abc import Iterator

import ml_dtypes
import numpy as np

from cnnjax import safetensors

Flat = dict[str, np.ndarray]

# What a state may hold beside the types that published weights have.
_DTYPES = {
    **safetensors.DTYPES,
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "C64": np.dtype(np.complex64),
}


def to_pieces(arrays: Flat) -> Iterator[bytes | memoryview]:
    """Give the parts of the file that holds some arrays, see `safetensors.to_pieces`.

    Args:
      arrays: Every array by its name.
    Raises:
      ValueError: If an array's type has no place in the format.
    """
    return safetensors.to_pieces({name: little_endian(value) for name, value in arrays.items()}, dtypes=_DTYPES)


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
