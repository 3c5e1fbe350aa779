"""Files that are there whole or not at all, and are still there after the power was cut."""

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterable

from cnnjax.errors import CnnjaxError

# What a file system answers that has no way to see a folder to the disk.
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


def write_text(path: str | pathlib.Path, text: str) -> None:
    """Write a text file aside, see it to the disk, and give it its name when it is whole.

    Args:
      path: The file; an old one stays as it is until the new one takes its place.
      text: What is to be in it.
    Raises:
      CnnjaxError: If it cannot be written; nothing of it stays.
    """
    write_bytes(path, [text.encode()])


def write_bytes(path: str | pathlib.Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a binary file aside, see it to the disk, and give it its name when it is whole.

    Args:
      path: The file; an old one stays as it is until the new one takes its place.
      pieces: What is to be in it, in order.
    Raises:
      CnnjaxError: If it cannot be written; nothing of it stays.
    """
    path = pathlib.Path(path)
    # Its own name in each process, so that two that write the same file cannot mix their halves.
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        write_file(aside, pieces)
        aside.replace(path)
        sync_folder(path.parent)  # the new name itself
    except OSError as error:
        raise CnnjaxError(f"cannot write {path}: {error.strerror}.") from error
    finally:
        with contextlib.suppress(OSError):  # a read-only disk refuses even to remove what is not there
            aside.unlink()


def write_file(path: pathlib.Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a file under its own name and see its content to the disk, for folders that are renamed as a whole.

    Args:
      path: The file.
      pieces: What is to be in it, in order.
    Raises:
      OSError: If it cannot be written; a part of it may stay.
    """
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def make_folder(path: pathlib.Path) -> None:
    """Make a folder and those above it, and see their names to the disk.

    Args:
      path: The folder; nothing is done if it is there.
    Raises:
      OSError: If it cannot be made.
    """
    if path.is_dir():
        return
    if not path.parent.is_dir():
        make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: pathlib.Path) -> None:
    """See the names in a folder to the disk: those that are new, and that others are gone.

    Args:
      path: The folder.
    Raises:
      OSError: If the disk fails; where folders cannot be synced at all, nothing happens.
    """
    if os.name == "nt":
        return
    try:
        folder = os.open(path, os.O_RDONLY)
    except PermissionError:  # names may be added to it, not read
        return
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(folder)
