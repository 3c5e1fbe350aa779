"""Where files of a dataset can come from: small objects that give decoded splits, or say why they cannot."""

import dataclasses
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import numpy as np

from cnnjax.data import png
from cnnjax.data.content import Examples
from cnnjax.data.formats import Archive, Folder, Format, Splits
from cnnjax.errors import CnnjaxError

Log = Callable[[str], None]

_CHUNK = 2**18
_SLOWEST = 50_000  # bytes a second; a transfer slower than that, on the whole, is given up


def fetch(url: str, path: Path, *, size: int, sha256: str, log: Log, timeout: float = 10.0) -> None:
    """Fetch a file whose size and sha256 are known."""
    part = path.with_name(f"{path.name}.part")
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response, part.open("wb") as file:
            digest, received = _copy(response, file, url, size, log, time.monotonic() + timeout + size / _SLOWEST)
        if received != size:
            raise CnnjaxError(f"{url}: expected {size:,} bytes, got {received:,}: truncated or replaced.")
        if digest != sha256:
            raise CnnjaxError(f"{url}: wrong content (sha256 {digest[:12]}..., expected {sha256[:12]}...).")
        part.replace(path)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise CnnjaxError(f"{url}: the server answers {error.code} {error.reason}.") from error
    except OSError as error:  # no network, no such host, refused, timed out, reset; or the disk
        raise CnnjaxError(f"{url}: {_reason(error)}.") from error
    except (http.client.HTTPException, ValueError) as error:  # cut off, or not HTTP at all
        raise CnnjaxError(f"{url}: no usable answer ({str(error).strip() or type(error).__name__}).") from error
    finally:
        part.unlink(missing_ok=True)


def _copy(response, file, url: str, size: int, log: Log, deadline: float) -> tuple[str, int]:
    digest, received, said = hashlib.sha256(), 0, time.monotonic()
    while chunk := response.read1(_CHUNK):
        digest.update(chunk)
        file.write(chunk)
        received += len(chunk)
        now = time.monotonic()
        if received > size:
            raise CnnjaxError(f"{url}: expected {size:,} bytes, got more: not this file.")
        if now > deadline:
            raise CnnjaxError(f"{url}: too slow, {received:,} of {size:,} bytes so far.")
        if now - said >= 5:
            log(f"{url}: {received / 2**20:.0f} of {size / 2**20:.0f} MiB")
            said = now
    return digest.hexdigest(), received


def _reason(error: OSError) -> str:
    reason = getattr(error, "reason", error)  # URLError wraps what happened
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    return str(getattr(reason, "strerror", None) or reason)


_COUNT = 1797


def digits() -> dict[str, Examples]:
    """Return scikit-learn's digits, 8 by 8 pixels, in 1,442 training and 355 test examples.

    The split is fixed: within each class, in the source's order, every fifth example is a test example. (Every fifth
    of all would not do: the source goes through the digits in turn.)
    """
    folder = resources.files("cnnjax.data") / "digits"
    try:
        images = png.decode([(folder / "digits.png").read_bytes()], (_COUNT, 64, 1)).reshape(_COUNT, 8, 8, 1)
        text = "".join((folder / "labels.txt").read_text(encoding="ascii").split())
        labels = np.array([int(letter) for letter in text], np.int32)
    except (OSError, ValueError) as error:
        raise CnnjaxError(f"{folder}: damaged, install cnnjax again ({error}).") from error
    if len(labels) != _COUNT:
        raise CnnjaxError(
            f"{folder / 'labels.txt'}: expected {_COUNT} labels, got {len(labels)}. Install cnnjax again."
        )
    rank = np.zeros(_COUNT, int)  # how many of its class came before each example
    for label in range(10):
        rank[labels == label] = np.arange(np.sum(labels == label))
    everything = Examples(images, labels)
    return {"train": everything.take(rank % 5 != 4), "test": everything.take(rank % 5 == 4)}


class Source(Protocol):
    """Give a dataset's splits, or raise CnnjaxError with the reason."""

    @property
    def title(self) -> str:
        """What it is called in lists and messages."""
        ...

    def read(self, work: Path, log: Log) -> Splits:
        """Return the decoded splits."""
        ...


@dataclasses.dataclass(frozen=True)
class Embedded:
    """A dataset that comes with the package.

    Args:
      load: Returns it.
    """

    load: Callable[[], Splits]

    @property
    def title(self) -> str:
        return "the file embedded in the package"

    def read(self, work: Path, log: Log) -> Splits:
        return self.load()


@dataclasses.dataclass(frozen=True)
class Manual:
    """A dataset that only a person can fetch, because its licence has to be agreed to.

    Args:
      title: Where it is to be had.
      instructions: What to do, one sentence.
    """

    title: str
    instructions: str

    def read(self, work: Path, log: Log) -> Splits:
        raise CnnjaxError(self.instructions)


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """Name a file at an address, with what it must be."""

    name: str
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Official:
    """The address at which the makers, or TFDS for them, publish the files.

    Args:
      address: What the files' names are put behind.
      files: The files; either one archive or those that the layout names.
      layout: How to read them.
      timeout: Seconds to wait for an answer.
    """

    address: str
    files: tuple[RemoteFile, ...]
    layout: Format
    timeout: float = 10.0

    @property
    def title(self) -> str:
        return f"official address {urlsplit(self.address).netloc}"

    def read(self, work: Path, log: Log) -> Splits:
        for file in self.files:
            log(f"fetching {self.address}{file.name} ({file.size / 2**20:.1f} MiB)")
            url, path = self.address + file.name, work / file.name
            fetch(url, path, size=file.size, sha256=file.sha256, log=log, timeout=self.timeout)
        first = work / self.files[0].name
        is_archive = first.name.endswith(".tar.gz")
        return self.layout.read(Archive(first, first.name) if is_archive else Folder(work))


@dataclasses.dataclass(frozen=True)
class LocalFolder:
    """A folder that the user names, with the official files, unpacked or not.

    Args:
      path: The folder, or an archive file.
      layouts: Every format it may be in.
    """

    path: Path
    layouts: tuple[Format, ...]

    @property
    def title(self) -> str:
        return f"folder {self.path}"

    def read(self, work: Path, log: Log) -> Splits:
        if not self.path.exists():
            raise CnnjaxError(f"{self.path}: no such folder.")
        if not self.path.is_dir():
            named = next((layout for layout in self.layouts if list(layout.limits) == [self.path.name]), None)
            return named.read(Folder(self.path.parent)) if named else self._from_archive(self.path)
        folder = Folder(self.path)
        # The layout of which most is there: then the message names what is missing of the one that was meant.
        layout = max(self.layouts, key=lambda layout: sum(folder.find(name) is not None for name in layout.limits))
        if any(folder.find(name) for name in layout.limits):
            return layout.read(folder)
        archives = [path for ending in ("*.tar.gz", "*.tgz", "*.tar") for path in sorted(self.path.glob(ending))]
        if archives:
            return _first_that_reads([lambda path=path: self._from_archive(path) for path in archives])
        wanted = " or ".join(f"{layout.title} ({', '.join(sorted(layout.limits))})" for layout in self.layouts)
        raise CnnjaxError(f"{self.path}: expected {wanted}, got none of them.")

    def _from_archive(self, path: Path) -> Splits:
        return _first_that_reads(
            [lambda layout=layout: layout.read(Archive(path, str(path))) for layout in self.layouts]
        )


def _first_that_reads(attempts: Sequence[Callable[[], Splits]]) -> Splits:
    reasons = []
    for attempt in attempts:
        try:
            return attempt()
        except CnnjaxError as error:
            reasons.append(str(error))
    raise CnnjaxError(" ".join(reasons))
