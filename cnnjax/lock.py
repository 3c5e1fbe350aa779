"""A workdir is for one process at a time; who holds it can be asked before anything heavy is imported."""

import contextlib
import os
import pathlib
import platform
import time

from cnnjax.errors import UsageError

NAME = "lock"
# What a holder that is just taking the lock needs to write its name: tries, and seconds between them.
_TRIES, _PAUSE = 20, 0.05


class Lock:
    """Hold a folder until `close`, or until the process dies, however it dies: the system lets go of it then.

    Args:
      folder: The folder, which is there.
    Attributes:
      refusal: Why the lock can't be written, on a disk that can only be read; it is held all the same.
    Raises:
      UsageError: If another process holds it; the message names it.
      OSError: If there is no lock and none can be made, or the disk is full.
    """

    def __init__(self, folder: pathlib.Path):
        self._path, self._file = folder / NAME, -1
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


def check(folder: pathlib.Path) -> None:
    """Refuse a folder that another process holds; make and change nothing.

    Args:
      folder: The folder, whether it is there or not.
    Raises:
      UsageError: If another process holds it; the message names it.
    """
    with contextlib.suppress(OSError), (folder / NAME).open("rb") as file:
        if not _lock(file.fileno(), exclusive=False):
            raise _held(folder / NAME)


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
