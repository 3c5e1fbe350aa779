"""Official files, fetched once: resumed where they were cut off, verified, kept in the user's cache."""

import contextlib
import hashlib
import http.client
import os
import pathlib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from cnnjax.errors import CnnjaxError
from cnnjax.pretrained.catalogue import Published

Progress = Callable[[int, int | None], None]

_BLOCK = 1 << 18
_SECONDS = 20.0  # to wait for a connection, and for each next piece


def cache_dir() -> pathlib.Path:
    """Return the folder for downloaded weights: `$CNNJAX_CACHE`, or `cnnjax/weights` in the user's cache folder."""
    own = os.environ.get("CNNJAX_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or (pathlib.Path.home() / ".cache")
    return pathlib.Path(own) if own else pathlib.Path(base) / "cnnjax" / "weights"


def download(file: Published, *, cache: pathlib.Path | None = None, progress: Progress | None = None) -> pathlib.Path:
    """Return where an official file is, after fetching it if it is not there yet.

    A transfer that was cut off goes on where it ended the next time. Nothing has the file's name before its content is
    verified; a file that is there already, put there by hand too, is verified as well.

    Args:
      file: From `published`.
      cache: The folder; `cache_dir()` if None.
      progress: Called with the bytes that are there and the bytes of the whole, None if the server does not say.
    Raises:
      CnnjaxError: If it can't be had or is not that file; the message names the address and the place to put it.
    """
    folder = cache_dir() if cache is None else cache
    path = folder / file.file_name
    if path.exists():
        _verify(file, path, path)
        return path
    part = path.with_name(f"{path.name}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(part):
            if not path.exists():  # another process may have fetched it meanwhile
                _fetch(file.address, part, progress)
                _verify(file, part, path)
                part.replace(path)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise _missing(file, path, f"the server answers {error.code} {error.reason}") from error
    except OSError as error:  # no network, no such host, refused, timed out, reset; or the disk
        raise _missing(file, path, _reason(error)) from error
    except http.client.IncompleteRead as error:
        raise _missing(file, path, f"cut off {error.expected or 0:,} bytes before the end") from error
    except (http.client.HTTPException, ValueError) as error:  # not HTTP at all
        raise _missing(file, path, str(error).strip() or type(error).__name__) from error
    return path


def _fetch(address: str, part: pathlib.Path, progress: Progress | None) -> None:
    """Fetch what `part` does not have yet of a file."""
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        if not (done and error.code == 416):  # there is nothing after what is there
            raise
        error.close()
        return
    with response:
        resumed = response.status == 206 and (response.headers.get("Content-Range") or "").startswith(f"bytes {done}-")
        done = done if resumed else 0
        length = response.headers.get("Content-Length")
        whole = done + int(length) if length is not None else None
        with part.open("ab" if resumed else "wb") as out:
            _copy(response, out, done, whole, progress)


def _copy(response: Any, out: BinaryIO, done: int, whole: int | None, progress: Progress | None) -> None:
    while block := response.read1(_BLOCK):
        out.write(block)
        done += len(block)
        if progress:
            progress(done, whole)
    if whole is not None and done < whole:
        raise http.client.IncompleteRead(b"", whole - done)


def _verify(file: Published, found: pathlib.Path, path: pathlib.Path) -> None:
    """Raise a CnnjaxError if a file is not the official one; what was fetched is thrown away then."""
    with found.open("rb") as content:
        digest = hashlib.file_digest(content, file.algorithm).hexdigest()
    if digest.startswith(file.digest):
        return
    if found != path:
        found.unlink()
    what = f"{file.algorithm} {digest[: len(file.digest)]}, expected {file.digest}"
    hint = f"Delete it, or replace it by the file of {file.address}." if found == path else "Try again."
    raise CnnjaxError(f"{path}: it is not the published file ({what}). {hint}")


def _missing(file: Published, path: pathlib.Path, reason: str) -> CnnjaxError:
    return CnnjaxError(
        f"{file.name}: the weights can't be fetched ({reason}). Get {file.address} and put it at {path}, or run this "
        "again to go on."
    )


def _reason(error: OSError) -> str:
    reason = getattr(error, "reason", error)  # URLError wraps what happened
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    text = str(getattr(reason, "strerror", None) or reason)
    return f"{error.filename}: {text}" if error.filename else text  # a folder that can't be written to


@contextlib.contextmanager
def _locked(part: pathlib.Path) -> Iterator[None]:
    """Let one process at a time fetch a file; the others wait, where the system has file locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    lock = part.with_name(f"{part.name}.lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
