"""The bytes of an HDF5 file, read with every offset checked and all work counted; and a cursor over a few of them."""

import struct
from bisect import bisect_right
from itertools import pairwise
from typing import BinaryIO

import numpy as np

from cnnjax.pretrained.tensors import WeightsError

# HDF5's address of nothing.
UNDEFINED = 2**64 - 1
# One unit a read and one more for each 4 KiB: about a second of work, twenty times what a ResNet-152 file takes.
_WORK = 500_000
_PAGE = 4096


class Window:
    """A part of a file, or all of it, that is an HDF5 file.

    Args:
      file: The open file.
      start: Where the HDF5 file begins in it.
      size: Bytes of the HDF5 file.
    """

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self.start, self.size = start, size
        self._file = file
        self._work = _WORK
        self._taken: list[tuple[int, int]] = []

    def take(self, offset: int, count: int, what: str) -> bytes:
        """Return `count` bytes of the file's structure; what is taken here can't be a tensor's values, too.

        Args:
          offset: From the beginning of the HDF5 file.
          count: How many; no memory is taken before it is checked.
          what: For the message.
        Raises:
          WeightsError: If they lie outside, or the file makes far more work than a file of weights does.
        """
        self.check(offset, count, what)
        self.work(1 + count // _PAGE)
        self._taken.append((offset, offset + count))
        self._file.seek(self.start + offset)
        data = self._file.read(count)
        if len(data) != count:
            raise WeightsError(f"the file ends inside {what}.")
        return data

    def work(self, units: int) -> None:
        """Count work, and stop at far more than a file of weights makes."""
        self._work -= units
        if self._work < 0:
            raise WeightsError("the HDF5 structure is larger than that of any file of weights.")

    def fields(self, offset: int, count: int, what: str) -> "Fields":
        """Return a cursor over what `take` returns."""
        return Fields(self.take(offset, count, what), what)

    def check(self, offset: int, count: int, what: str) -> None:
        """Raise a WeightsError if `count` bytes from `offset` are not all inside."""
        if offset + count > self.size:
            raise WeightsError(f"damaged HDF5: {what} at byte {offset:,} lies outside of the {self.size:,} bytes.")

    def read_into(self, offset: int, values: np.ndarray) -> None:
        """Fill an array with bytes of the file as they are."""
        self.check(offset, values.nbytes, "a dataset")
        self._file.seek(self.start + offset)
        flat = values.reshape(-1).view(np.uint8)
        if self._file.readinto(flat.data) != flat.size:  # pyright: ignore[reportAttributeAccessIssue]  BinaryIO lacks it
            raise WeightsError("the file is shorter than when it was opened.")

    def check_disjoint(self, extents: list[tuple[int, int, str]]) -> None:
        """Refuse tensors whose bytes are shared with another tensor or with the structure of the file.

        HDF5 as Keras writes it has no checksums; a changed address shows here.

        Args:
          extents: First byte, end, and name of each.
        """
        extents = sorted(extents)
        for (_, end, name), (begin, _, other) in pairwise(extents):
            if begin < end:
                raise WeightsError(f"damaged HDF5: {name} and {other} lie on the same bytes.")
        starts = [begin for begin, _, _ in extents]
        for begin, end in self._taken:
            place = bisect_right(starts, end - 1) - 1
            if end > begin and place >= 0 and extents[place][1] > begin:
                raise WeightsError(f"damaged HDF5: {extents[place][2]} lies on bytes of the file's structure.")


class Fields:
    """Little-endian numbers and bytes, one after the other.

    Args:
      data: The bytes.
      what: What they are, for messages.
    """

    def __init__(self, data: bytes, what: str) -> None:
        self.data, self.what, self.place = data, what, 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self.data) - self.place

    def raw(self, count: int) -> bytes:
        """Return the next bytes.

        Raises:
          WeightsError: If there are not that many.
        """
        if count > self.left:
            raise WeightsError(f"damaged HDF5: {self.what} is cut short.")
        self.place += count
        return self.data[self.place - count : self.place]

    def number(self, count: int) -> int:
        """Return the next `count` bytes as a number."""
        return int.from_bytes(self.raw(count), "little")

    def numbers(self, *counts: int) -> tuple[int, ...]:
        """Return several numbers of these many bytes."""
        return tuple(self.number(count) for count in counts)

    def expect(self, wanted: bytes) -> None:
        """Refuse the file if these bytes do not come next."""
        found = self.raw(len(wanted))
        if found != wanted:
            raise WeightsError(f"damaged HDF5: {self.what} begins with {found!r}, expected {wanted!r}.")

    def align(self, size: int = 8) -> None:
        """Skip to the next multiple of `size`; padding that is missing at the very end is none."""
        self.place = min(len(self.data), -(-self.place // size) * size)


def checksum(data: bytes) -> int:
    """Return Bob Jenkins's lookup3 hash with a seed of 0, HDF5's checksum of structures.

    Example:
      >>> hex(checksum(b"Four score and seven years ago"))
      '0x17770551'

    References:
      https://www.burtleburtle.net/bob/c/lookup3.c, `hashlittle`; the example is the file's own (driver5).
    """
    a = b = c = (0xDEADBEEF + len(data)) & 0xFFFFFFFF
    if not data:
        return c
    last = (len(data) - 1) // 12 * 12
    words = struct.unpack(f"<{last // 4 + 3}I", data.ljust(last + 12, b"\0"))
    for i in range(0, last // 4, 3):
        a, b, c = _mixed(a + words[i], b + words[i + 1], c + words[i + 2])
    a, b, c = ((value + word) & 0xFFFFFFFF for value, word in zip((a, b, c), words[-3:]))
    for turn in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _turned(b, turn)) & 0xFFFFFFFF
        a, b, c = b, c, a  # the next step changes a by c, then b by a, then c by b again
    return (a, b, c)[1]


def _mixed(a: int, b: int, c: int) -> tuple[int, int, int]:
    for turn in (4, 6, 8, 16, 19, 4):
        a = ((a - c) ^ _turned(c, turn)) & 0xFFFFFFFF
        c = (c + b) & 0xFFFFFFFF
        a, b, c = b, c, a
    return a, b, c


def _turned(value: int, by: int) -> int:
    value &= 0xFFFFFFFF
    return (value << by | value >> (32 - by)) & 0xFFFFFFFF
