"""The values of HDF5 datasets: in one piece, in the header, or in chunks."""

import math
import zlib

import numpy as np

from cnnjax.pretrained.hdf5_bytes import UNDEFINED, Fields, Window
from cnnjax.pretrained.hdf5_messages import Layout
from cnnjax.pretrained.hdf5_objects import tree_leaves
from cnnjax.pretrained.tensors import WeightsError

_DEFLATE, _SHUFFLE, _FLETCHER = 1, 2, 3
# Weights are noise, which hardly shrinks; a dataset that grows more than this (beyond a small constant) is a bomb.
_GROWTH, _FREE = 50, 1 << 20

Chunk = tuple[tuple[int, ...], int, int]


def check_values(
    window: Window, shape: tuple[int, ...], dtype: np.dtype, layout: Layout, filters: tuple[int, ...]
) -> list[tuple[int, int]]:
    """Return where in the file the values lie, first byte and end of each piece, after checking that they are there.

    Args:
      window: The file.
      shape: The dataset's.
      dtype: The dataset's.
      layout: The dataset's.
      filters: What its chunks went through.
    Raises:
      WeightsError: If they are not all there, or too few bytes claim to be too many.
    """
    size = math.prod(shape) * dtype.itemsize
    if layout.chunks is not None:
        chunks = _chunks(window, shape, dtype, layout)
        stored = sum(length for _, _, length in chunks)
        if size > (_GROWTH * stored + _FREE if filters else stored):
            raise WeightsError(f"claims {size:,} bytes, its chunks have {stored:,}.")
        return [(begin, begin + length) for _, begin, length in chunks]
    if filters:
        raise WeightsError("filters without chunks are not read.")
    if layout.size != size:
        raise WeightsError(f"its shape {shape} of {dtype} takes {size:,} bytes, the file has {layout.size:,} for it.")
    if layout.values is not None or not size:
        return []
    if layout.offset == UNDEFINED:
        raise WeightsError("its values were never written.")
    window.check(layout.offset, size, "a dataset")
    return [(layout.offset, layout.offset + size)]


def read_values(
    window: Window, shape: tuple[int, ...], dtype: np.dtype, layout: Layout, filters: tuple[int, ...]
) -> np.ndarray:
    """Return the values of a dataset that `check_values` has seen.

    Raises:
      WeightsError: If the file has changed, or a chunk is damaged.
    """
    if layout.chunks is not None:
        return _read_chunks(window, shape, dtype, layout, filters)
    if layout.values is not None:
        return np.frombuffer(layout.values, dtype).reshape(shape).copy()
    values = np.empty(shape, dtype)
    if values.size:
        window.read_into(layout.offset, values)
    return values


def _chunks(window: Window, shape: tuple[int, ...], dtype: np.dtype, layout: Layout) -> list[Chunk]:
    """Return each chunk's first index, first byte and stored size."""
    *sizes, item = layout.chunks or (0,)
    if len(sizes) != len(shape) or item != dtype.itemsize or min(sizes) < 1:
        raise WeightsError(f"chunks of {tuple(sizes)} do not fit its shape {shape}.")
    expected = math.prod(-(-length // size) for length, size in zip(shape, sizes))
    if not expected:
        return []
    if layout.offset == UNDEFINED:
        raise WeightsError("its values were never written.")
    found: dict[tuple[int, ...], Chunk] = {}
    for key, address in tree_leaves(window, layout.offset, key=8 + 8 * (len(sizes) + 1), kind=1):
        fields = Fields(key, "a chunk")
        length, skipped = fields.numbers(4, 4)
        first = fields.numbers(*[8] * len(sizes))
        inside = all(i < n and i % size == 0 for i, n, size in zip(first, shape, sizes))
        if skipped or not inside or first in found:
            raise WeightsError(f"damaged HDF5: a chunk at {first} of the shape {shape}.")
        window.check(address, length, "a chunk")
        found[first] = (first, address, length)
    if len(found) != expected:
        raise WeightsError(f"has {len(found)} of its {expected} chunks.")
    return list(found.values())


def _read_chunks(
    window: Window, shape: tuple[int, ...], dtype: np.dtype, layout: Layout, filters: tuple[int, ...]
) -> np.ndarray:
    values = np.empty(shape, dtype)
    sizes = (layout.chunks or ())[:-1]
    size = math.prod(sizes) * dtype.itemsize
    # A chunk at the edge is stored whole; one that is much larger than the dataset is a bomb.
    if size > 2 * max(values.nbytes, _FREE):
        raise WeightsError(f"chunks of {sizes} are larger than the dataset's shape {shape}.")
    for first, begin, length in _chunks(window, shape, dtype, layout):
        data = np.empty(length, np.uint8)
        window.read_into(begin, data)
        chunk = np.frombuffer(_unfiltered(data.tobytes(), filters, size, dtype.itemsize), dtype).reshape(sizes)
        place = tuple(slice(i, min(i + n, end)) for i, n, end in zip(first, sizes, shape))
        values[place] = chunk[tuple(slice(0, s.stop - s.start) for s in place)]
    return values


def _unfiltered(data: bytes, filters: tuple[int, ...], size: int, item: int) -> bytes:
    for number in reversed(filters):
        if number == _DEFLATE:
            inflate = zlib.decompressobj()
            try:
                data = inflate.decompress(data, size + 5)  # four bytes of a checksum, and one to see that it lies
            except zlib.error as error:
                raise WeightsError("a chunk's compressed data is damaged.") from error
        elif number == _SHUFFLE:
            whole = len(data) // item * item
            turned = np.frombuffer(data[:whole], np.uint8).reshape(item, -1).T.tobytes()
            data = turned + data[whole:]
        elif number == _FLETCHER:
            data = _without_sum(data)
        else:
            raise WeightsError(f"chunks compressed with HDF5's filter {number} are not read; expected gzip.")
    if len(data) != size:
        raise WeightsError(f"a chunk has {len(data):,} bytes, expected {size:,}.")
    return data


def _without_sum(data: bytes) -> bytes:
    """Return a chunk without its Fletcher-32 checksum, after comparing it."""
    content, stored = data[:-4], data[-4:]
    words = np.frombuffer(content[: len(content) // 2 * 2], ">u2").astype(np.uint64)
    if len(content) % 2:
        words = np.append(words, np.uint64(content[-1] << 8))
    count = len(words)
    first = int(words.sum()) % 65535
    second = int((words * (np.arange(count, 0, -1, dtype=np.uint64) % 65535)).sum()) % 65535
    # The library leaves 65535 where a sum is a multiple of it and not zero.
    sums = [{value, 65535} if value == 0 else {value} for value in (first, second)]
    number = int.from_bytes(stored, "little")
    if len(stored) < 4 or not (number >> 16 in sums[1] and number & 65535 in sums[0]):
        raise WeightsError("a chunk's checksum is wrong.")
    return content
