"""What a dataset with a name is, and where its files can come from: objects that give decoded splits or say why not."""

import dataclasses
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

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


class Source(Protocol):
    """A place that gives a dataset's splits, or raises CnnjaxError with the reason."""

    @property
    def title(self) -> str: ...

    def read(self, work: Path, log: Log) -> Splits: ...


@dataclasses.dataclass(frozen=True)
class Embedded:
    """A dataset that comes with the package."""

    load: Callable[[], Splits]
    title: str = "the file embedded in the package"

    def read(self, work: Path, log: Log) -> Splits:
        return self.load()


@dataclasses.dataclass(frozen=True)
class Manual:
    """A dataset that only a person can fetch, because its licence has to be agreed to; the instructions say how."""

    title: str
    instructions: str

    def read(self, work: Path, log: Log) -> Splits:
        raise CnnjaxError(self.instructions)


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A file at an address, with what it must be."""

    name: str
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Official:
    """The address at which the makers, or TFDS for them, publish one archive, or the files that the layout names."""

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
    """A folder or archive that the user names, with the official files in any of the formats."""

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A dataset with a name: what is known before any of it is read.

    Args:
      name: Its name, TFDS's where TFDS has it.
      version: TFDS's version of the same features and splits.
      description: One sentence.
      homepage: Where its makers describe it.
      image_shape: `(H, W, C)`; of a streamed set what its images are cut to unless the caller says otherwise.
      class_names: One name a class.
      coarse_names: One name a superclass, where there are any.
      parents: For each class the number of its superclass.
      names_known: Whether TFDS stores the names too, or only their number.
      has_id: Whether TFDS's features have a text `id`.
      counts: Examples in `"train"` and `"test"`.
      digests: sha256 of the content of each split, see `formats.canonical`; None where it could not be worked out.
      moments: For each channel the sum of all training pixels and of their squares; checked where there is no digest.
      mean: Per channel, of the training images in [0, 1].
      std: The same for the standard deviation.
      validation: Examples taken out of the training set unless the caller says otherwise.
      layouts: The formats it is published in; what a folder that the user names is searched for.
      sources: Where it can come from, in the order in which they are tried.
      older_versions: Versions of TFDS's with the same content, newest first; used where they are prepared already.
      test_split: TFDS's name of the split that no decision may depend on.
      streamed: Whether its images are of different sizes and do not fit in memory: see `streamed.StreamedSplit`. Only
        the number of its examples and its features are verified.
    """

    name: str
    version: str
    description: str
    homepage: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    coarse_names: tuple[str, ...] = ()
    parents: tuple[int, ...] = ()
    names_known: bool = True
    has_id: bool = False
    counts: Mapping[str, int]
    digests: Mapping[str, str] | None
    moments: tuple[tuple[int, int], ...] = ()
    mean: tuple[float, ...]
    std: tuple[float, ...]
    validation: int
    layouts: tuple[Format, ...]
    sources: tuple[Source, ...]
    older_versions: tuple[str, ...] = ()
    test_split: str = "test"
    streamed: bool = False

    @property
    def label_columns(self) -> tuple[str, ...]:
        """Names of the label features, the one that is trained on first."""
        return ("label", "coarse_label") if self.coarse_names else ("label",)
