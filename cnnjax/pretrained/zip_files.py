"""Zip archives whose every member is known to be what it says, before anything is read out of them."""

import io
import pathlib
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass

from cnnjax.pretrained.tensors import MAX_NAME, MAX_TENSORS, SourceFile, WeightsError

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_BLOCK = 1 << 20
# Weights are noise, which hardly shrinks; what grows more than this (beyond a small constant) is a bomb.
_GROWTH, _FREE = 50, 16 << 20
# Bytes of the archive's list for twice as many members as there may be tensors; each takes ten times that in memory.
_LONGEST_LIST = 16 << 20


@dataclass(frozen=True)
class Member:
    """One file inside an archive.

    Args:
      archive: The archive.
      name: Its path inside.
      offset: Where its bytes begin in the archive.
      stored_size: Bytes it takes there.
      size: Bytes it has.
      deflated: Whether it is compressed.
      crc: Its checksum.
    """

    archive: pathlib.Path
    name: str
    offset: int
    stored_size: int
    size: int
    deflated: bool
    crc: int

    def check(self) -> None:
        """Read it once, in pieces, and compare its checksum.

        Raises:
          WeightsError: If it is damaged.
        """
        self._read(None)

    def read(self) -> bytes:
        """Return its bytes, checksum compared.

        Raises:
          WeightsError: If it is damaged.
        """
        pieces: list[bytes] = []
        self._read(pieces)
        return b"".join(pieces)

    def _read(self, pieces: list[bytes] | None) -> None:
        inflate = zlib.decompressobj(-15) if self.deflated else None
        crc = size = 0
        left = self.stored_size
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            while left and size <= self.size:
                block = file.read(min(_BLOCK, left))
                if not block:
                    break
                left -= len(block)
                try:
                    # One byte more than it may have is enough to know that it lies.
                    piece = inflate.decompress(block, self.size - size + 1) if inflate else block
                except zlib.error as error:
                    raise WeightsError(f"{self.name}: its compressed data is damaged.") from error
                size += len(piece)
                crc = zlib.crc32(piece, crc)
                if pieces is not None:
                    pieces.append(piece)
        if size != self.size:
            raise WeightsError(
                f"{self.name}: expected {self.size} bytes in it, found {'more' if size > self.size else size}."
            )
        if crc != self.crc:
            raise WeightsError(
                f"{self.name}: its checksum is wrong, so it is damaged, or was written by torch with "
                "set_crc32_options(False): then save it again without."
            )


class _Archive(io.FileIO):
    """An archive whose list of members is read whole, by `zipfile`, only if it is no longer than any net's."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _LONGEST_LIST:
            raise WeightsError(f"its list of members takes {size:,} bytes, more than that of any net.")
        return super().read(size) or b""


def read_zip(path: pathlib.Path) -> dict[str, Member]:
    """Return the members of an archive by their names, in its order.

    Args:
      path: The archive.
    Raises:
      WeightsError: If it is damaged, or a member is encrypted, compressed in another way than deflate, doubly there,
        over another, a link, outside the archive, or grows beyond measure when it is unpacked.
    """
    size = path.stat().st_size
    try:
        with _Archive(path, "rb") as file, zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OverflowError, EOFError) as error:
        raise WeightsError(f"it is a damaged zip archive ({_short(error)}).") from error
    if not infos or len(infos) > 2 * MAX_TENSORS:
        raise WeightsError(f"expected a zip archive of 1 to {2 * MAX_TENSORS} members, it has {len(infos)}.")
    members: dict[str, Member] = {}
    with path.open("rb") as file:
        for info in infos:
            _refuse_odd(info)
            if info.filename in members:
                raise WeightsError(f"{info.filename!r} is in the archive more than once.")
            header = _local_header(file, info, size)
            deflated = info.compress_type == zipfile.ZIP_DEFLATED
            members[info.filename] = Member(
                path, info.filename, header, info.compress_size, info.file_size, deflated, info.CRC
            )
    _refuse_overlaps(members, {info.filename: info.header_offset for info in infos})
    if sum(m.size for m in members.values()) > _GROWTH * size + _FREE:
        raise WeightsError(f"it would unpack to more than {_GROWTH} times its size.")
    return members


def open_zip(path: pathlib.Path) -> SourceFile:
    """Return the tensors of a zip archive, written by torch or by Keras.

    Raises:
      WeightsError: If it is neither, or damaged.
    """
    members = read_zip(path)
    if "model.weights.h5" in members or "config.json" in members:
        from cnnjax.pretrained.keras_archive import open_keras_archive

        return open_keras_archive(path, members)
    from cnnjax.pretrained.torch_zip import open_torch_zip

    return open_torch_zip(path, members)


def _refuse_odd(info: zipfile.ZipInfo) -> None:
    name = info.filename
    parts = name.replace("\\", "/").split("/")
    if name != info.orig_filename or len(name) > MAX_NAME or any(ord(c) < 32 for c in name):
        raise WeightsError(f"a member's name is not plain text: {info.orig_filename[:80]!r}.")
    if name.startswith("/") or ".." in parts or ":" in parts[0]:
        raise WeightsError(f"the member {name!r} lies outside the archive.")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise WeightsError(f"the member {name!r} is a link.")
    if info.flag_bits & 0x1:
        raise WeightsError(f"the member {name!r} is encrypted.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise WeightsError(f"the member {name!r} is compressed in an unknown way ({info.compress_type}).")
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        raise WeightsError(f"the member {name!r} claims two sizes, {info.compress_size} and {info.file_size} bytes.")


def _local_header(file, info: zipfile.ZipInfo, size: int) -> int:
    """Return where a member's bytes begin, after comparing its own header with the archive's list."""
    file.seek(max(0, info.header_offset))
    raw = file.read(_LOCAL_HEADER.size)
    if len(raw) == _LOCAL_HEADER.size:
        magic, _, flags, method, *_, name_length, extra_length = _LOCAL_HEADER.unpack(raw)
        name = file.read(name_length)
        begin = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        try:
            same = name.decode("utf-8" if flags & 0x800 else "cp437") == info.orig_filename
        except UnicodeDecodeError:
            same = False
        whole = begin + info.compress_size <= size
        if magic == b"PK\x03\x04" and same and whole and method == info.compress_type and info.header_offset >= 0:
            return begin
    raise WeightsError(f"the member {info.filename!r} is not where the archive's list says.")


def _refuse_overlaps(members: dict[str, Member], headers: dict[str, int]) -> None:
    end = 0
    for name in sorted(members, key=headers.__getitem__):
        if headers[name] < end:
            raise WeightsError(f"the member {name!r} lies over another.")
        end = members[name].offset + members[name].stored_size


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:80] or type(error).__name__
