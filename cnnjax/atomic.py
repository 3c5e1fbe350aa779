"""Files that are there whole or not at all."""

import os
import pathlib
from collections.abc import Iterable

from cnnjax.errors import CnnjaxError


def write_text(path: str | pathlib.Path, text: str) -> None:
    """Write a text file aside and give it its name when it is whole.

    Args:
      path: The file; an old one stays as it is until the new one takes its place.
      text: What is to be in it.
    Raises:
      CnnjaxError: If it cannot be written; nothing of it stays.
    """
    path = pathlib.Path(path)
    aside = path.with_name(f"{path.name}.tmp")
    try:
        with aside.open("w", newline="") as file:
            file.write(text)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise CnnjaxError(f"cannot write {path}: {error.strerror}.") from error


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
        with aside.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name itself
        finally:
            os.close(folder)
    except OSError as error:
        raise CnnjaxError(f"cannot write {path}: {error.strerror}.") from error
    finally:
        aside.unlink(missing_ok=True)
