"""Zip archives by the standard library, whose every member is plain before anything is read out of them."""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator

from cnnjax.pretrained.readers import FREE, GROWTH, MAX_NAME, MAX_TENSORS, Content, WeightsError, short

WEIGHTS, CONFIG = "model.weights.h5", "config.json"
_BLOCK = 1 << 20
# Bytes of the archive's list for twice as many members as there may be tensors; each takes ten times that in memory.
_LONGEST_LIST = 16 << 20
_DAMAGE = (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OverflowError, EOFError, RuntimeError)


class _File(io.FileIO):
    """An archive whose list of members is read whole, by `zipfile`, only if it is no longer than any net's."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _LONGEST_LIST:
            raise WeightsError(f"its list of members takes {size:,} bytes, more than that of any net.")
        return super().read(size) or b""


class Archive:
    """A zip archive whose members are what they say.

    Args:
      path: The archive.
    Raises:
      WeightsError: If it is damaged, or a member is encrypted, compressed in another way than deflate, there twice, a
        link, outside the archive, or grows beyond measure when it is unpacked.
    """

    def __init__(self, path: str):
        try:
            self._zip = zipfile.ZipFile(_File(path, "rb"))
        except _DAMAGE as error:
            raise WeightsError(f"it is a damaged zip archive ({short(error)}).") from error
        infos = self._zip.infolist()
        if not infos or len(infos) > 2 * MAX_TENSORS:
            raise WeightsError(f"expected a zip archive of 1 to {2 * MAX_TENSORS} members, it has {len(infos)}.")
        self.members: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            _refuse_odd(info)
            if info.filename in self.members:
                raise WeightsError(f"{info.filename!r} is in the archive more than once.")
            self.members[info.filename] = info
        size = self._zip.fp.seek(0, 2) if self._zip.fp else 0
        if sum(info.file_size for info in infos) > GROWTH * size + FREE:
            raise WeightsError(f"it would unpack to more than {GROWTH} times its size.")

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield a member's bytes; its checksum is known to be right before the last of them comes.

        Raises:
          WeightsError: If it is damaged.
        """
        info, found = self.members[name], 0
        try:
            with self._zip.open(info) as file:
                while piece := file.read(_BLOCK):
                    found += len(piece)
                    yield piece
        except zlib.error as error:
            raise WeightsError(f"{name}: its compressed data is damaged.") from error
        except _DAMAGE as error:
            raise WeightsError(
                f"{name}: its checksum is wrong, so it is damaged, or was written by torch with "
                "set_crc32_options(False): then save it again without."
                if "CRC" in str(error)
                else f"{name}: it is damaged ({short(error)})."
            ) from error
        if found != info.file_size:
            raise WeightsError(f"{name}: expected {info.file_size} bytes in it, found {found}.")

    def read(self, name: str) -> bytes:
        """Return a member's bytes."""
        return b"".join(self.pieces(name))


def read(path: str, which: str = "") -> Content:
    """Return the tensors of a zip archive, written by torch or by Keras; `which` of several states in one of torch.

    Raises:
      WeightsError: If it is neither, or damaged.
    """
    archive = Archive(path)
    if {WEIGHTS, CONFIG} & archive.members.keys():
        from cnnjax.pretrained.readers.keras import read_archive

        return read_archive(archive)
    from cnnjax.pretrained.readers.pytorch import read_archive

    return read_archive(archive, which)


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
