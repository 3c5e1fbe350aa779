"""What lies in a folder of images, and which image is for what: decided by the files' bytes alone."""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cnnjax.data.dataset import SPLITS
from cnnjax.data.images import opened, size_and_kind
from cnnjax.data.streamed import in_threads
from cnnjax.errors import CnnjaxError, UsageError

# Of what is to be divided, the part for testing, and the part for validation, where folders do not say it.
_SHARE = 0.15
_FOLDERS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "validation"
)
_IGNORED = {"thumbs.db", "desktop.ini", "__macosx"}
_MOST_NAMED = 10

# Paths from the top folder, with their classes, by split.
Listed = dict[str, list[tuple[str, int]]]


class File(NamedTuple):
    """An image file: its path from the top folder, its class, the sha256 of its bytes, and what its header says."""

    path: str
    label: int
    digest: bytes
    size: tuple[int, int]
    grey: bool

    @property
    def place(self) -> float:
        """A number in [0, 1) that follows from its bytes."""
        return int.from_bytes(self.digest[:8], "big") / 2**64


def list_files(top: Path) -> tuple[list[str], Listed]:
    """Return the class names, and the files of each split that has a folder of its own; `train` if none has."""
    if not top.is_dir():
        raise CnnjaxError(f"{top}: no such folder.")
    folders = _entries(top, folders=True)
    if not folders:
        raise UsageError(f"{top}: expected one folder a class, or the folders train and test of them; got none.")
    parts = {folder: _FOLDERS[folder.lower()] for folder in folders if folder.lower() in _FOLDERS}
    parts = {folder: part for folder, part in parts.items() if not _entries(top / folder, folders=False)}
    if not parts:
        _check_classes(top, folders)
        return folders, {"train": _files(top, "", folders, folders)}
    others = sorted(set(folders) - set(parts))
    double = next((f"{a} beside {b}" for a in parts for b in parts if a < b and parts[a] == parts[b]), None)
    if "train" not in parts.values():
        raise UsageError(
            f"{top}: has a folder {min(parts)} but no folder train; add it, or name folder:DIR of classes."
        )
    if others or double:
        wrong = others[0] if others else double
        raise UsageError(f"{top}: expected the folders train, test and, if need be, validation; got {wrong} too.")
    by_part = {part: folder for folder, part in parts.items()}
    names = {part: _entries(top / folder, folders=True) for part, folder in by_part.items()}
    for part in set(by_part) - {"train"}:
        for one, other in (("train", "test"), (part, "train")) if part == "test" else ((part, "train"),):
            alone = sorted(set(names[one]) - set(names[other]))
            if alone:
                raise UsageError(f"{top}: class {alone[0]} is in {by_part[one]} but not in {by_part[other]}.")
    _check_classes(top / by_part["train"], names["train"])
    classes = names["train"]
    listed = {part: _files(top, f"{folder}/", names[part], classes) for part, folder in by_part.items()}
    return classes, listed


def _check_classes(folder: Path, names: Sequence[str]) -> None:
    if len(names) < 2:
        raise UsageError(f"{folder}: expected at least two folders, one a class, got {len(names)}.")


def _entries(folder: Path, *, folders: bool) -> list[str]:
    try:
        with os.scandir(folder) as found:
            shown = [e for e in found if not e.name.startswith(".") and e.name.lower() not in _IGNORED]
            return sorted(entry.name for entry in shown if entry.is_dir() == folders)
    except OSError as error:
        raise CnnjaxError(f"{folder}: cannot be read ({error.strerror}).") from error


def _files(top: Path, prefix: str, names: Sequence[str], classes: Sequence[str]) -> list[tuple[str, int]]:
    found = []
    for name in names:
        files = _entries(top / prefix / name, folders=False)
        inner = _entries(top / prefix / name, folders=True)
        if inner:
            raise UsageError(f"{top / prefix / name / inner[0]}: a folder within a class; move its images up or away.")
        if not files:
            raise UsageError(f"{top / prefix / name}: the class is empty, expected image files.")
        found += [(f"{prefix}{name}/{file}", classes.index(name)) for file in files]
    return found


def scan(top: Path, listed: Listed) -> dict[str, list[File]]:
    """Return the files with what their bytes and headers say, each split in the order of their digests."""

    def scanned(file: tuple[str, int]) -> File:
        path, label = file
        return File(path, label, _digest(top / path), *size_and_kind(top / path))

    parts = {part: in_threads(scanned, files) for part, files in listed.items()}
    return {part: sorted(files, key=lambda file: (file.digest, file.path)) for part, files in parts.items()}


def _digest(path: Path) -> bytes:
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise CnnjaxError(f"{path}: cannot be read ({error.strerror or error}).") from error
    with opened(path):
        raise CnnjaxError(f"{path}: is not a regular file.")


def divide(
    parts: Mapping[str, list[File]], test_fraction: float | None, validation: int | None
) -> tuple[dict[str, list[File]], list[str]]:
    """Return the files of all three splits, and what a person should know of it.

    What has no folder of its own is taken out of the training files: those whose bytes' sha256, as a number in [0, 1),
    is low are for testing, those where it is high for validation. So an image stays on its side whatever else is
    added, wherever the folder is and however images are cut; and each class loses about the same part.
    """
    train, test, share = parts["train"], parts.get("test"), 0.0
    if test is None:
        share = _SHARE if test_fraction is None else test_fraction
        test, train = ([f for f in train if (f.place < share) == side] for side in (True, False))
    held = parts.get("validation")
    if held is None and validation is None:
        start = 1 - min(_SHARE, (1 - share) / 2)
        held, train = ([f for f in train if (f.place >= start) == side] for side in (True, False))
    elif held is None:
        held = _in_proportion(train)[:validation]
        train = [file for file in train if file not in set(held)]
    return _on_one_side({"test": test, "validation": held or [], "train": train})


def _in_proportion(files: Sequence[File]) -> list[File]:
    """Return the files in an order whose first ones are of all classes, each as often as its part of all."""
    counts, seen, ranked = Counter(file.label for file in files), Counter(), []
    for file in reversed(files):  # the highest places first, as where no number is given
        ranked.append(((seen[file.label] + 0.5) / counts[file.label], file.label, file))
        seen[file.label] += 1
    return [file for *_, file in sorted(ranked, key=lambda entry: entry[:2])]


def _on_one_side(parts: dict[str, list[File]]) -> tuple[dict[str, list[File]], list[str]]:
    """Return the splits without images that a split before them has too, and one line about each kind of these."""
    owner: dict[bytes, tuple[str, File]] = {}
    kept: dict[str, list[File]] = {}
    double: dict[tuple[str, str], list[str]] = {}
    for part, files in parts.items():
        kept[part] = []
        for file in files:
            first, other = owner.setdefault(file.digest, (part, file))
            if first == part:
                kept[part].append(file)
            else:
                double.setdefault((part, first), []).append(f"{file.path} is {other.path}")
    lines = [
        f"{len(pairs):,} image{'s' * (len(pairs) > 1)} of {part} left out, {first} has the same bytes: "
        f"{', '.join(pairs[:3])}{', …' * (len(pairs) > 3)}"
        for (part, first), pairs in double.items()
    ]
    return kept, lines


def describe(listed: Listed, names: Sequence[str], parts: Mapping[str, Sequence[File]]) -> str:
    """Return one line: which split has how many images of each class, and which were divided here."""

    def counted(part: str) -> str:
        counts = Counter(file.label for file in parts[part])
        each = [counts[label] for label in range(len(names))]
        if len(names) > _MOST_NAMED:
            return f"{part} {sum(each):,} ({min(each):,} to {max(each):,} a class)"
        return f"{part} {sum(each):,} ({', '.join(f'{name} {count:,}' for name, count in zip(names, each))})"

    taken = [part for part in SPLITS if part not in listed]
    how = f"; {' and '.join(taken)} divided from train by the files' content" if taken else ""
    return f"{len(names)} classes, {', '.join(map(counted, SPLITS))}{how}"


def missing(names: Sequence[str], parts: Mapping[str, Sequence[File]]) -> list[str]:
    """Return a warning for testing and for validation of which a class has no image."""
    lines = []
    for part in ("test", "validation"):
        found = {file.label for file in parts[part]}
        without = [name for label, name in enumerate(names) if label not in found]
        if parts[part] and without:
            named = ", ".join(without[:_MOST_NAMED]) + ", …" * (len(without) > _MOST_NAMED)
            which = "a class has" if len(without) == 1 else f"{len(without):,} classes have"
            lines.append(f"warning: {which} no image for {part}: {named}. Add images, or a folder {part}.")
    return lines


def digest(files: Iterable[File], names: Sequence[str]) -> str:
    """Return the sha256 of the files' bytes and classes, whatever their order and names."""
    lines = sorted(f"{file.digest.hex()} {names[file.label]}\n" for file in files)
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
