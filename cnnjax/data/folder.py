"""A user's own images: one folder a class, whole in memory."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cnnjax.data.content import Examples, canonical, statistics
from cnnjax.data.images import quiet, read_image, size_and_kind
from cnnjax.data.load import make_dataset
from cnnjax.data.resident import Dataset, DatasetInfo, Size, as_size
from cnnjax.errors import CnnjaxError, UsageError

_MOST_BYTES = 4 * 2**30
_IGNORED = {"thumbs.db", "desktop.ini", "__macosx"}

# Path from the top folder, class number.
_File = tuple[str, int]


def load_folder(
    directory: str | Path,
    *,
    test_fraction: float | None = None,
    validation: int | None = None,
    image_size: Size = None,
    channels: int | None = None,
) -> Dataset:
    """Read images that lie in one folder a class.

    Either `DIR/train/CLASS/*` and `DIR/test/CLASS/*`, with `DIR/validation/CLASS/*` or `DIR/val/CLASS/*` if there is
    one, or `DIR/CLASS/*` and the fraction of each class that is to be
    the test set. That part is drawn by the images' content: it stays the same wherever the folder is, and adding an
    image moves at most one other image of its class.

    Args:
      directory: The top folder. Hidden files are left out; everything else in a class's folder must be an image.
      test_fraction: Part of each class that becomes the test set, above 0 and below 1; only for `DIR/CLASS/*`.
      validation: How many examples to take out of the training set; None for a tenth, or for none where there is a
        folder of them.
      image_size: Size of the images; needed where they differ in size. They are then cut to its proportions and
        resized as by `load_image`; images all alike that are to be enlarged are enlarged inside jit instead.
      channels: 1 or 3; None for 1 where all files are grey, else 3.
    Returns:
      The dataset; classes are the folders' names, sorted; ids are the files' paths from the top folder.
    Raises:
      UsageError: If the folders are not as described or the numbers do not fit.
      CnnjaxError: If a file is no readable image; the message names it.
    """
    top, size = Path(directory).expanduser(), as_size(image_size)
    if channels not in (None, 1, 3):
        raise UsageError(f"channels: expected 1 or 3, got {channels}.")
    names, listed = _list_files(top, test_fraction)
    files = [file for part in listed.values() for file in part]
    shape, size = _shape(top, files, size, channels)
    images = _read_all(top, files, shape)
    labels = np.array([label for _, label in files], np.int32)
    everything = Examples(images, labels, ids=[path for path, _ in files])
    if test_fraction is not None:
        train, test = _divide(top, canonical(everything)[0], names, test_fraction)
    else:
        ends = np.cumsum([len(listed.get(part, [])) for part in ("train", "test", "validation")])
        train, test = everything.take(slice(0, ends[0])), everything.take(slice(ends[0], ends[1]))
    (train, train_digest), (test, test_digest) = canonical(train), canonical(test)
    mean, std = statistics(train.images)
    digests = {"train": train_digest, "test": test_digest}
    source = f"{len(files):,} image files in {top}"
    info = DatasetInfo(f"folder:{directory}", len(names), tuple(names), shape, mean, std, source, digests)
    if "validation" in listed:
        if validation is not None:
            raise UsageError(f"{top}: has a validation folder of its own, so no number for validation can be stated.")
        own = canonical(everything.take(slice(ends[1], ends[2])))[0]
        return make_dataset(train, test, info, 0, size, own)
    taken = round(len(train) / 10) if validation is None else validation
    return make_dataset(train, test, info, taken, size)


def load_folder_spec(text: str, *, validation: int | None, image_size: Size) -> Dataset:
    """Read what `folder:DIR` or `folder:DIR?test=FRACTION` names.

    Args:
      text: As the user wrote it.
      validation: See `load_folder`.
      image_size: See `load_folder`.
    Raises:
      UsageError: If the text means nothing.
    """
    path, fraction = text.removeprefix("folder:"), None
    if "?" in path and not Path(path).is_dir():
        path, _, option = path.rpartition("?")
        key, _, value = option.partition("=")
        try:
            fraction = float(value)
        except ValueError:
            fraction = None
        if key != "test" or fraction is None:
            raise UsageError(f"dataset {text!r}: expected folder:DIR or folder:DIR?test=FRACTION, such as ?test=0.2.")
    if not path:
        raise UsageError(f"dataset {text!r}: expected a folder after the colon.")
    return load_folder(path, test_fraction=fraction, validation=validation, image_size=image_size)


def _list_files(top: Path, test_fraction: float | None) -> tuple[list[str], dict[str, list[_File]]]:
    """Return the class names and the files of each part: train and test, or the one that is to be divided."""
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


def _files(top: Path, prefix: str, names: Sequence[str], classes: Sequence[str]) -> list[_File]:
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


def _shape(
    top: Path, files: Sequence[_File], size: tuple[int, int] | None, channels: int | None
) -> tuple[tuple[int, int, int], tuple[int, int] | None]:
    """Return the shape to store images in, and the size that they are resized to inside jit, if any."""
    headers = _in_threads(lambda file: size_and_kind(top / file[0]), files)
    depth = channels or (1 if all(grey for _, grey in headers) else 3)
    stored, alike = headers[0][0], True
    for (path, _), (this, _) in zip(files, headers):
        if this == stored:
            continue
        if size is None:
            first, other = (f"{width}×{height}" for height, width in (stored, this))
            raise UsageError(
                f"{top}: images differ in size ({files[0][0]} is {first}, {path} is {other}): "
                "state an image size (--image-size)."
            )
        alike = False
    enlarge = size is not None and alike and stored[0] <= size[0] and stored[1] <= size[1]
    height, width = stored if size is None or enlarge else size
    needed = len(files) * height * width * depth
    if needed > _MOST_BYTES:
        raise CnnjaxError(
            f"{top}: {len(files):,} images of {width}×{height} take {needed / 2**30:.1f} GiB, more than the "
            f"{_MOST_BYTES / 2**30:.0f} GiB that are kept in memory: state a smaller image size."
        )
    return (height, width, depth), size if enlarge else None


def _read_all(top: Path, files: Sequence[_File], shape: tuple[int, int, int]) -> np.ndarray:
    images = np.empty((len(files), *shape), np.uint8)

    def read(place: int) -> None:
        images[place] = read_image(top / files[place][0], shape)[0]

    _in_threads(read, range(len(files)))
    return images


def _in_threads(function, items: Sequence) -> list:
    with quiet(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


def _divide(top: Path, examples: Examples, names: Sequence[str], fraction: float) -> tuple[Examples, Examples]:
    """Take the first examples of each class, in the canonical order, for testing."""
    testing = np.zeros(len(examples), bool)
    for label, name in enumerate(names):
        places = np.flatnonzero(examples.labels == label)
        number = max(1, round(len(places) * fraction))
        if number >= len(places):
            raise UsageError(f"{top / name}: {len(places)} images cannot be divided with {fraction:g} for testing.")
        testing[places[:number]] = True
    return examples.take(~testing), examples.take(testing)
