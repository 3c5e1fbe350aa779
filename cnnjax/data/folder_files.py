"""What lies in a folder of images: the classes, the files, and which of them are for testing."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.data.images import quiet
from cnnjax.errors import CnnjaxError, UsageError

_IGNORED = {"thumbs.db", "desktop.ini", "__macosx"}

# Path from the top folder, class number.
File = tuple[str, int]


def list_files(top: Path, test_fraction: float | None) -> tuple[list[str], dict[str, list[File]]]:
    """Return the class names and the files of each part: train and test, or the one that is to be divided.

    Args:
      top: The top folder.
      test_fraction: See `load_folder`.
    Raises:
      UsageError: If the folders are not as `load_folder` describes them.
    """
    if not top.is_dir():
        raise CnnjaxError(f"{top}: no such folder.")
    folders = _entries(top, folders=True)
    if not folders:
        raise UsageError(f"{top}: expected one folder a class, or the folders train and test of them; got none.")
    if {"train", "test"} <= set(folders):
        if test_fraction is not None:
            raise UsageError(f"{top}: has a test folder of its own, so no fraction for testing can be stated.")
        parts = [part for part in ("train", "test", "validation", "val") if part in folders]
        others = sorted(set(folders) - set(parts))
        if others or len(parts) > 3:
            wrong = others[0] if others else "val beside validation"
            raise UsageError(f"{top}: expected the folders train, test and, if need be, validation; got {wrong} too.")
        names = {part: _entries(top / part, folders=True) for part in parts}
        for part, other in [("train", "test"), *((part, "train") for part in parts[1:])]:
            alone = sorted(set(names[part]) - set(names[other]))
            if alone:
                raise UsageError(f"{top}: class {alone[0]} is in {part} but not in {other}.")
        _check_classes(top / "train", names["train"])
        listed = {part: _files(top, f"{part}/", names[part], names["train"]) for part in parts}
        return names["train"], {"validation" if part == "val" else part: files for part, files in listed.items()}
    if "train" in folders or "test" in folders:
        there, missing = ("train", "test") if "train" in folders else ("test", "train")
        raise UsageError(
            f"{top}: has a folder {there} but no folder {missing}; add it, or name folder:{top / there}?test=0.2."
        )
    if test_fraction is None:
        raise UsageError(
            f"{top}: say how much of it is for testing: folder:{top}?test=0.2, or make folders train/test."
        )
    if not 0 < test_fraction < 1:
        raise UsageError(f"{top}: the fraction for testing must lie between 0 and 1, got {test_fraction}.")
    _check_classes(top, folders)
    return folders, {"all": _files(top, "", folders, folders)}


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


def _files(top: Path, prefix: str, names: Sequence[str], classes: Sequence[str]) -> list[File]:
    found = []
    for name in names:
        label = classes.index(name)
        files = _entries(top / prefix / name, folders=False)
        inner = _entries(top / prefix / name, folders=True)
        if inner:
            raise UsageError(f"{top / prefix / name / inner[0]}: a folder within a class; move its images up or away.")
        if not files:
            raise UsageError(f"{top / prefix / name}: the class is empty, expected image files.")
        found += [(f"{prefix}{name}/{file}", label) for file in files]
    return found


def choose_testing(top: Path, labels: np.ndarray, names: Sequence[str], fraction: float) -> np.ndarray:
    """Return which examples are for testing, bool: the first ones of each class.

    Args:
      top: The top folder.
      labels: The examples' classes, in an order that has nothing to do with what they show.
      names: The classes.
      fraction: Part of each class.
    Raises:
      UsageError: If a class is too small to be divided.
    """
    testing = np.zeros(len(labels), bool)
    for label, name in enumerate(names):
        places = np.flatnonzero(labels == label)
        number = max(1, round(len(places) * fraction))
        if number >= len(places):
            raise UsageError(f"{top / name}: {len(places)} images cannot be divided with {fraction:g} for testing.")
        testing[places[:number]] = True
    return testing


def in_threads(function: Callable[..., Any], items: Iterable[Any]) -> list[Any]:
    """Return what the function gives for each item, in order; warnings are dropped.

    Args:
      function: Called in several threads at once.
      items: Its arguments.
    """
    with quiet(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))
