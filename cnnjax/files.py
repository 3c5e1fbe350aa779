"""Files that are there whole or not at all, also after the power was cut, and a folder's lock.

Only the standard library is imported, so that a held workdir is refused before anything heavy is.
"""

import contextlib
import errno
import os
import pathlib
import platform
import time
from collections.abc import Iterable

from cnnjax.errors import CnnjaxError, UsageError

# What a file system answers that has no way to see a folder to the disk.
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
LOCK_NAME = "lock"
# What a holder that is just taking the lock needs to write its name: tries, and seconds between them.
_TRIES, _PAUSE = 20, 0.05


def write_text(path: str | pathlib.Path, text: str) -> None:
    """Write a text file aside, see it to the disk, and give it its name when it is whole."""
    write_bytes(path, [text.encode()])


def write_bytes(path: str | pathlib.Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a binary file aside, see it to the disk, and give it its name when it is whole."""
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
    """Write a file under its own name and see its content to the disk, for folders that are renamed as a whole."""
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def make_folder(path: pathlib.Path) -> None:
    """Make a folder and those above it, and see their names to the disk."""
    if path.is_dir():
        return
    if not path.parent.is_dir():
        make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: pathlib.Path) -> None:
    """See the names in a folder to the disk: those that are new, and that others are gone."""
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


class Lock:
    """A hold on a folder until `close`, or until the process dies, however it dies: the system lets go of it then.

    Attributes:
      refusal: Why the lock can't be written, on a disk that can only be read; it is held all the same.
    """

    def __init__(self, folder: pathlib.Path):
        self._path, self._file = folder / LOCK_NAME, -1
        self.refusal: OSError | None = None
        try:
            self._take()
            if self.refusal is None:
                os.ftruncate(self._file, 0)
                os.pwrite(self._file, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the folder."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _take(self) -> None:
        while True:
            try:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as refusal:
                try:
                    self._file = os.open(self._path, os.O_RDONLY)
                except OSError:
                    raise refusal from None
                self.refusal = refusal
            if not _lock(self._file, exclusive=True):
                raise _held(self._path)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._file), self._path.stat()):
                    return
            self.close()  # its holder has removed the file and gone: another process may hold the new one


def check_lock(folder: pathlib.Path) -> None:
    """Refuse a folder that another process holds; make and change nothing."""
    with contextlib.suppress(OSError), (folder / LOCK_NAME).open("rb") as file:
        if not _lock(file.fileno(), exclusive=False):
            raise _held(folder / LOCK_NAME)


def _lock(file: int, *, exclusive: bool) -> bool:
    """Lock a file without waiting; return whether that was possible."""
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _held(path: pathlib.Path) -> UsageError:
    return UsageError(f"the workdir {path.parent} is in use by {_holder(path)}. Wait for it, or take another.")


def _holder(path: pathlib.Path) -> str:
    for _ in range(_TRIES):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            name = path.read_text().strip()
            if name:
                return name
        time.sleep(_PAUSE)
    return "another process"
