"""Prepared directories whose images are of all sizes and do not fit in memory, such as ImageNet's."""

import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.data import prepared
from cnnjax.data.crops import Crops
from cnnjax.data.entry import Entry, check_validation
from cnnjax.data.host_rng import fixed_sample
from cnnjax.data.imagenet_tars import prepare_tars
from cnnjax.data.resident import Dataset, DatasetInfo, Size, as_size
from cnnjax.data.sources import Log, Manual
from cnnjax.data.streamed import Encoded, StreamedSplit
from cnnjax.errors import CnnjaxError

_FEATURES = ("file_name", "image", "label")
# Files that a process has open anyway, generously.
_OTHER_FILES = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """Give one split's examples as they are stored.

    Args:
      where: What to call the split in messages.
      source: TFDS's data source of serialised examples; empty for a split that was not prepared.
      num_classes: Number of classes.
      digest: sha256 of the names and sizes of the split's files.
    """

    where: str
    source: Sequence[bytes]
    num_classes: int
    digest: str

    def __len__(self) -> int:
        return len(self.source)

    def fetch(self, place: int) -> Encoded:
        """Return the example at a place, or raise CnnjaxError with one line that names it."""
        name = f"{self.where} example {place}"
        try:
            feature = _parse()(self.source[place]).features.feature
            data, label = feature["image"].bytes_list.value[0], int(feature["label"].int64_list.value[0])
            file_name = feature["file_name"].bytes_list.value[0].decode(errors="replace")
        except Exception as error:  # array_record raises anything, and so does protobuf
            raise CnnjaxError(f"{name}: cannot be read ({_said(error)}).") from error
        name = f"{name} ({file_name})"
        if not 0 <= label < self.num_classes:
            raise CnnjaxError(f"{name}: label {label} is out of range [0, {self.num_classes}).")
        return Encoded(name, data, label, file_name)


def load_records(
    entry: Entry,
    data_dir: Path,
    source_dir: Path | None,
    log: Log,
    *,
    validation: int | None,
    image_size: Size,
    resize_size: int | None,
) -> Dataset:
    """Open a set whose images are streamed, preparing it first if its files are there.

    Training images are random resized crops, mirrored half of the time; validation and test images the centre of the
    image whose shorter side was resized. The validation examples are those of `fixed_sample`: the same ones for the
    same number, wherever the set is. A split that was not prepared is empty: 6 GB are enough to test on ImageNet.
    """
    height, width = as_size(image_size) or entry.image_shape[:2]
    resize = round(max(height, width) * 8 / 7) if resize_size is None else resize_size
    crops = Crops(size=(height, width), resize=resize, random=True, upright=False)
    path = check_records(entry, data_dir, source_dir, log)
    train, test = _open(entry, path)
    record = prepared.read_record(path)
    origin = f"made from {record['source']}" if "source" in record else "not prepared by cnnjax"
    taken = (entry.validation if len(train) else 0) if validation is None else validation
    check_validation(entry.name, taken, len(train))
    held_out = fixed_sample(len(train), taken)
    rest = np.delete(np.arange(len(train)), held_out)

    def split(name: str, source: Records, places: np.ndarray) -> StreamedSplit:
        return StreamedSplit(name, source, places, crops, entry.image_shape[2], entry.mean, entry.std)

    info = DatasetInfo(
        name=entry.name,
        num_classes=len(entry.class_names),
        class_names=entry.class_names,
        image_shape=(height, width, entry.image_shape[2]),
        mean=entry.mean,
        std=entry.std,
        source=f"{path} ({origin}; read as needed; features and numbers of examples verified)",
        digests={"train": train.digest, "test": test.digest},
    )
    return Dataset(
        train=split("train", train, rest),
        validation=split("validation", train, held_out),
        test=split("test", test, np.arange(len(test))),
        info=info,
    )


def check_records(entry: Entry, data_dir: Path, source_dir: Path | None, log: Log) -> Path:
    """Return the folder of a prepared set whose images are streamed, once it can be opened."""
    path = prepared.directory(entry, data_dir)
    if not prepared.is_prepared(entry, data_dir):
        if source_dir is not None:
            return prepare_tars(entry, data_dir, source_dir, log)
        how = " ".join(source.instructions for source in entry.sources if isinstance(source, Manual))
        raise CnnjaxError(f"{entry.name} is not prepared in {data_dir}, and its licence lets nobody fetch it: {how}")
    prepared.check_format(path)
    _open(entry, path)
    return path


def _open(entry: Entry, path: Path) -> tuple[Records, Records]:
    """Return the training and the test split, verified as far as can be done without reading images."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(builder_dir=str(path))
        features, splits = builder.info.features, builder.info.splits
        _check(entry, path, features, splits)
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        opened, number = [], _OTHER_FILES
        for ours, theirs in (("train", "train"), ("test", entry.test_split)):
            # pyright cannot see through TFDS's decorator
            source: Any = builder.as_data_source(theirs, deserialize_method=raw) if theirs in splits else []  # pyright: ignore
            files = sorted(Path(name) for name in splits[theirs].filepaths) if theirs in splits else []
            number += len(files)
            opened.append(Records(f"{path}: {ours}", source, len(entry.class_names), _digest(files)))
        _allow_open_files(number)
        return opened[0], opened[1]
    except CnnjaxError:
        raise
    except Exception as error:  # TFDS and array_record raise anything
        raise CnnjaxError(f"{path}: damaged ({_said(error)}). Delete it and prepare {entry.name} again.") from error


def _check(entry: Entry, path: Path, features: Any, splits: Any) -> None:
    if not set(_FEATURES) <= set(features):
        raise CnnjaxError(f"{path}: expected the features {list(_FEATURES)} of {entry.name}, got {sorted(features)}.")
    if tuple(features["label"].names) != entry.class_names:
        raise CnnjaxError(f"{path}: expected the {len(entry.class_names):,} classes of {entry.name}, got others.")
    names = {"train": "train", "test": entry.test_split}
    if not set(names.values()) & set(splits):
        raise CnnjaxError(f"{path}: expected a split {' or '.join(names.values())}, got {sorted(splits)}.")
    for ours, theirs in names.items():
        if theirs in splits and splits[theirs].num_examples != entry.counts[ours]:
            got = splits[theirs].num_examples
            raise CnnjaxError(
                f"{path}: expected {entry.counts[ours]:,} {theirs} examples of {entry.name}, got {got:,}."
            )


def _digest(files: Sequence[Path]) -> str:
    return hashlib.sha256("".join(f"{file.name}\0{os.stat(file).st_size}\n" for file in files).encode()).hexdigest()


def _allow_open_files(number: int) -> None:
    """Let the process keep that many files open: each stays so once read, and 1,024 are all that many systems allow."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 <= soft < number:
            resource.setrlimit(resource.RLIMIT_NOFILE, (number if hard < 0 else min(number, hard), hard))


@functools.cache
def _parse() -> Any:
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example.FromString  # pyright: ignore[reportAttributeAccessIssue]


def _said(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
