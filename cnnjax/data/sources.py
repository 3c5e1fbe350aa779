"""Where files of a dataset can come from: small objects that give decoded splits, or say why they cannot."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from cnnjax.data.download import Log, fetch
from cnnjax.data.files import Archive, Folder
from cnnjax.data.formats import Format, Splits
from cnnjax.errors import CnnjaxError


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
