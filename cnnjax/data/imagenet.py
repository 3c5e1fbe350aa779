"""ImageNet: what it is, and its own archives, prepared as TFDS prepares them but without TensorFlow.

The JPEG files stay as they are.
"""

import contextlib
import functools
import hashlib
import importlib.util
import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from cnnjax.data.prepare import all_or_nothing, write
from cnnjax.data.sources import Entry, Log, Manual, RemoteFile
from cnnjax.errors import CnnjaxError

_EVERY = 50_000  # images between two lines of progress

# Of a sample of the training images; torchvision's, https://docs.pytorch.org/vision/stable/models.html, and since then
# everybody's. How they were found: https://github.com/pytorch/vision/issues/1439.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# By TFDS's split; sizes and sha256 are TFDS's.
FILES = {
    "train": RemoteFile(
        "ILSVRC2012_img_train.tar", 147897477120, "b08200a27a8e34218a0e58fde36b0fe8f73bc377f4acea2d91602057c3ca45bb"
    ),
    "validation": RemoteFile(
        "ILSVRC2012_img_val.tar", 6744924160, "c7e06a6c0baccf06d8dbeb6577d71efff84673a5dbdd50633ab44f8ea0456ae0"
    ),
}


def entry() -> Entry:
    """Return what ImageNet is: ILSVRC 2012 as TFDS prepares it."""
    return Entry(
        name="imagenet2012",
        version="5.1.0",
        older_versions=("5.0.0",),
        description="1.3 million photographs in 1,000 classes, ILSVRC 2012; tested on its validation set.",
        homepage="https://image-net.org/",
        image_shape=(224, 224, 3),
        class_names=_synsets(),
        counts={"train": 1281167, "test": 50000},
        digests=None,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        validation=10000,
        layouts=(),
        sources=(
            Manual(
                "manual download from https://image-net.org/download-images, after registering",
                "register at https://image-net.org/download-images (research and teaching only), put "
                f"{FILES['train'].name} (138 GiB) and {FILES['validation'].name} (6 GiB, enough to test on) into a "
                "folder and name it: cnnjax data prepare imagenet2012 --source-dir FOLDER",
            ),
        ),
        test_split="validation",
        streamed=True,
    )


@functools.cache
def _synsets() -> tuple[str, ...]:
    """Return the classes' WordNet numbers in TFDS's order."""
    return _tfds_lines("labels.txt")


def validation_labels() -> tuple[str, ...]:
    """Return the classes of the validation images in the order of their files' names."""
    return _tfds_lines("validation_labels.txt")


def _tfds_lines(name: str) -> tuple[str, ...]:
    """Return a list that comes with TFDS; it is found without importing TFDS."""
    spec = importlib.util.find_spec("tensorflow_datasets")
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(folders[0] if folders else "") / "datasets" / "imagenet2012" / name
    try:
        return tuple(path.read_text(encoding="utf-8").split())
    except OSError as error:
        raise CnnjaxError(f"{path}: cannot be read ({error.strerror}). Install tensorflow-datasets anew.") from error


def check_info(known: Entry, path: Path, features: Any, splits: Any) -> None:
    """Raise CnnjaxError unless TFDS describes ImageNet, or one of its two splits, in a directory."""
    wanted = ["file_name", "image", "label"]
    if not set(wanted) <= set(features):
        raise CnnjaxError(f"{path}: expected the features {wanted} of {known.name}, got {sorted(features)}.")
    if tuple(features["label"].names) != known.class_names:
        raise CnnjaxError(f"{path}: expected the {len(known.class_names):,} classes of {known.name}, got others.")
    names = {"train": "train", "test": known.test_split}
    if not set(names.values()) & set(splits):
        raise CnnjaxError(f"{path}: expected a split {' or '.join(names.values())}, got {sorted(splits)}.")
    for ours, theirs in names.items():
        if theirs in splits and splits[theirs].num_examples != known.counts[ours]:
            wanted, got = known.counts[ours], splits[theirs].num_examples
            raise CnnjaxError(f"{path}: expected {wanted:,} {theirs} examples of {known.name}, got {got:,}.")


def prepare_tars(known: Entry, data_dir: Path, source_dir: Path, log: Log) -> Path:
    """Prepare ImageNet from its archives, verified by their sha256 while they are read, all or nothing.

    It takes three times the archives' size on the disk until it is done, theirs included. A split whose archive is not
    in the folder is left out.
    """
    there = {split: source_dir / file.name for split, file in FILES.items()}
    there = {split: path for split, path in there.items() if path.is_file()}
    if not there:
        names = " or ".join(file.name for file in FILES.values())
        raise CnnjaxError(f"{source_dir}: expected {names}, got neither.")
    for split, path in there.items():
        wanted, size = FILES[split].size, path.stat().st_size
        if size != wanted:
            raise CnnjaxError(f"{path}: expected {wanted:,} bytes, got {size:,}. Fetch it again.")
    stdout, stderr = sys.stdout, sys.stderr

    def say(line: str) -> None:  # what TFDS prints meanwhile is thrown away
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            log(line)

    def make(work: Path) -> Path:
        log(f"writing {' and '.join(there)} to {data_dir / known.name / known.version}")
        read = {"train": _training_examples, "validation": _validation_examples}
        content = {split: _counted(split, read[split](path), say) for split, path in there.items()}
        source = " and ".join(path.name for path in there.values())
        return write(known, content, work / "written", {"source": source})

    return all_or_nothing(known, data_dir, log, make)


def _counted(split: str, examples: Iterator[dict[str, Any]], log: Log) -> Iterator[dict[str, Any]]:
    for number, example in enumerate(examples, 1):
        yield example
        if number % _EVERY == 0:
            log(f"{split}: {number:,} images")


def _training_examples(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what is in an archive of an archive a class, which is named after it."""
    classes = set(entry().class_names)
    for name, data in _members(path, FILES["train"]):
        label = name.removesuffix(".tar")
        if label not in classes:
            raise CnnjaxError(f"{path}: expected an archive a class, such as n01440764.tar, got {name!r}.")
        with _damage_named(path), tarfile.open(fileobj=io.BytesIO(data), mode="r:") as inner:
            for member in inner:
                file = inner.extractfile(member)
                if file is not None:
                    yield _example(member.name, file.read(), label)


def _validation_examples(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what is in an archive of images that are numbered from 1; their classes are TFDS's list."""
    labels = validation_labels()
    for name, data in _members(path, FILES["validation"]):
        number = name.removeprefix("ILSVRC2012_val_").removesuffix(".JPEG")
        if not (number.isascii() and number.isdigit() and 1 <= int(number) <= len(labels)):
            raise CnnjaxError(f"{path}: expected files such as ILSVRC2012_val_00000001.JPEG, got {name!r}.")
        yield _example(name, data, labels[int(number) - 1])


def _example(name: str, data: bytes, label: str) -> dict[str, Any]:
    return {"file_name": PurePosixPath(name).name, "image": data, "label": label}


def _members(path: Path, file: RemoteFile) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file in an archive; raise CnnjaxError at the end if it was not the right one."""
    with _damage_named(path), path.open("rb") as raw:
        hashed = _Hashed(raw)
        with tarfile.open(fileobj=hashed, mode="r|") as tar:  # pyright: ignore[reportCallIssue, reportArgumentType]
            for member in tar:
                content = tar.extractfile(member)
                if content is not None:
                    yield PurePosixPath(member.name).name, content.read()
        while hashed.read(2**20):
            pass
    if hashed.digest() != file.sha256:
        got, wanted = hashed.digest()[:12], file.sha256[:12]
        raise CnnjaxError(f"{path}: damaged archive (sha256 {got}..., expected {wanted}...). Fetch it again.")


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except tarfile.TarError as error:
        raise CnnjaxError(f"{path}: damaged archive ({error}). Fetch it again.") from error
    except OSError as error:
        raise CnnjaxError(f"{path}: cannot be read ({error.strerror or error}).") from error


class _Hashed:
    """A file that is read once from front to back, and its sha256."""

    def __init__(self, file: BinaryIO):
        self._file, self._sha256 = file, hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._sha256.update(data)
        return data

    def digest(self) -> str:
        return self._sha256.hexdigest()
