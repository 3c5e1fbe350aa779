"""Directories that TFDS or cnnjax prepared, read without TensorFlow; `prepare` writes them.

TFDS takes a second to import, so functions that need it do that themselves.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnnjax.data import png
from cnnjax.data.formats import Examples
from cnnjax.data.sources import Entry
from cnnjax.data.streamed import Encoded
from cnnjax.errors import CnnjaxError

# Beside TFDS's own files: where the content came from and what it was when it was verified.
RECORD = "cnnjax.json"
_CHUNK = 4096
# Files that a process has open anyway, generously.
_OTHER_FILES = 256


def default_data_dir() -> Path:
    """Return the folder of prepared datasets, TFDS's own: `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def directory(entry: Entry, data_dir: Path) -> Path:
    """Return where a dataset lies once it is prepared, the same place as with TFDS."""
    found = (data_dir / entry.name / version for version in (entry.version, *entry.older_versions))
    return next((path for path in found if has_info(path)), data_dir / entry.name / entry.version)


def has_info(path: Path) -> bool:
    """Return whether TFDS describes what is in a folder."""
    return os.path.isfile(path / "dataset_info.json")  # False, too, where looking is not allowed


def read_record(path: Path) -> dict:
    """Return the record of a directory that cnnjax prepared, {} of another."""
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CnnjaxError(f"{path / RECORD}: cannot be read ({error}). Delete {path} and prepare again.") from error
    return record if isinstance(record, dict) else {}


def formats(path: Path) -> set[str]:
    """Return the formats in which a prepared directory has its examples."""
    try:
        info = json.loads((path / "dataset_info.json").read_text(encoding="utf-8"))
        return {info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", ())}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CnnjaxError(f"{path / 'dataset_info.json'}: cannot be read ({error}).") from error


def check_format(path: Path, *, tfrecord: bool = False) -> None:
    """Raise CnnjaxError, with the command that converts it, if a prepared directory needs TensorFlow to be read.

    With `tfrecord`, that is no error where TensorFlow is installed.
    """
    found = formats(path)
    readable = tfrecord and "tfrecord" in found and importlib.util.find_spec("tensorflow") is not None
    if "array_record" not in found and not readable:
        convert = f"tfds convert_format --dataset_version_dir={shlex.quote(str(path))} --out_file_format=array_record"
        raise CnnjaxError(
            f"{path}: prepared as {'/'.join(sorted(found))}, which needs TensorFlow to read. Where tensorflow, "
            f"apache-beam and mlcroissant are installed, convert it with: {convert}"
        )


@contextlib.contextmanager
def damage_named(path: Path, name: str) -> Iterator[None]:
    """Turn whatever TFDS and array_record raise, RuntimeError and protobuf's own included, into one line."""
    try:
        yield
    except CnnjaxError:
        raise
    except Exception as error:
        raise CnnjaxError(f"{path}: damaged ({said(error)}). Delete it and prepare {name} again.") from error


def builder_of(path: Path) -> Any:
    """Return TFDS's builder of a prepared directory."""
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(builder_dir=str(path))


class Columns(NamedTuple):
    """Names of an example's features: its image, its labels, and a text that tells it apart, if there is one."""

    image: str = "image"
    labels: tuple[str, ...] = ("label",)
    id: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """One split's examples as they are stored, serialised; `where` is what messages call it."""

    where: str
    source: Sequence[bytes]
    num_classes: tuple[int, ...]
    columns: Columns

    def __len__(self) -> int:
        return len(self.source)

    def fetch(self, place: int) -> Encoded:
        """Return the example at a place, or raise CnnjaxError with one line that names it."""
        name, text = f"{self.where} example {place}", f"{place:05d}"
        try:
            feature = _parse()(self.source[place]).features.feature
            data = feature[self.columns.image].bytes_list.value[0]
            label = int(feature[self.columns.labels[0]].int64_list.value[0])
            if self.columns.id:
                text = feature[self.columns.id].bytes_list.value[0].decode(errors="replace")
                name = f"{name} ({text})"
        except Exception as error:  # array_record raises anything, and so does protobuf
            raise CnnjaxError(f"{name}: cannot be read ({said(error)}).") from error
        if not 0 <= label < self.num_classes[0]:
            hint = " It means that the split has no labels: name another." if label == -1 else ""
            raise CnnjaxError(f"{name}: label {label} is out of range [0, {self.num_classes[0]}).{hint}")
        return Encoded(name, data, label, text)

    def arrays(self, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return all images, which are small and of one shape, and their labels, a column each."""
        images = np.empty((len(self), *shape), np.uint8)
        labels = np.empty((len(self), len(self.columns.labels)), np.int64)
        for start in range(0, len(self), _CHUNK):
            places = range(start, min(start + _CHUNK, len(self)))
            many = getattr(self.source, "__getitems__", lambda places: map(self.source.__getitem__, places))
            found = [_parse()(record).features.feature for record in many(places)]
            try:
                for column, name in enumerate(self.columns.labels):
                    labels[start : places.stop, column] = [feature[name].int64_list.value[0] for feature in found]
                files = [feature[self.columns.image].bytes_list.value[0] for feature in found]
                images[start : places.stop] = png.decode(files, shape)
            except (ValueError, IndexError) as error:
                line = f"{self.where} examples {start} to {places.stop - 1} are damaged ({error})."
                raise CnnjaxError(line) from error
        check_labels(labels, self.columns.labels, self.num_classes, self.where)
        return images, labels.astype(np.int32)


def open_records(
    builder: Any, split: str | None, where: str, num_classes: tuple[int, ...], columns: Columns
) -> Records:
    """Return the examples of a split, or of a part of one in TFDS's words; no examples for None."""
    import tensorflow_datasets as tfds

    if split is None:
        source = []
    elif "array_record" in formats(Path(builder.data_path)):
        source = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    else:
        source = _tfrecords(builder.info.splits[split].file_instructions)
    return Records(where, source, num_classes, columns)


def _tfrecords(parts: Sequence[Any]) -> list[Any]:
    import tensorflow as tf  # pyright: ignore

    found = (tf.data.TFRecordDataset(str(part.filename)).skip(part.skip).take(part.take) for part in parts)
    return [record for some in found for record in some.as_numpy_iterator()]


def files_of(builder: Any, split: str) -> list[Path]:
    """Return the files that hold a split, or a part of one."""
    converted = "array_record" in formats(Path(builder.data_path))
    names = {str(part.filename) for part in builder.info.splits[split].file_instructions}
    return sorted(Path(name.replace(".tfrecord-", ".array_record-") if converted else name) for name in names)


def digest_of(files: Sequence[Path], more: str = "") -> str:
    """Return the sha256 of files' names and sizes."""
    lines = (f"{file.name}\0{os.stat(file).st_size}\n" for file in files)
    return hashlib.sha256("".join([*lines, more]).encode()).hexdigest()


def read(entry: Entry, path: Path) -> dict[str, Examples]:
    """Read a prepared directory, whoever prepared it, into memory."""
    check_format(path)
    sizes = (len(entry.class_names), len(entry.coarse_names))[: len(entry.label_columns)]
    splits = {}
    with damage_named(path, entry.name):
        builder = builder_of(path)
        _check_features(entry, builder.info, path)
        for split in ("train", "test"):
            columns = Columns(labels=entry.label_columns)
            images, labels = open_records(builder, split, f"{path}: {split}:", sizes, columns).arrays(entry.image_shape)
            splits[split] = Examples(images, labels[:, 0].copy(), labels[:, 1].copy() if entry.coarse_names else None)
    return splits


def _check_features(entry: Entry, info: Any, path: Path) -> None:
    found, wanted = info.features, {"image", *entry.label_columns}
    if not wanted <= set(found):
        raise CnnjaxError(f"{path}: expected the features {sorted(wanted)} of {entry.name}, got {sorted(found)}.")
    if tuple(found["image"].shape) != entry.image_shape:
        raise CnnjaxError(f"{path}: expected images {entry.image_shape}, got {tuple(found['image'].shape)}.")
    for split, count in entry.counts.items():
        if split not in info.splits or info.splits[split].num_examples != count:
            got = info.splits[split].num_examples if split in info.splits else "no such split"
            raise CnnjaxError(f"{path}: expected {count:,} {split} examples of {entry.name}, got {got}.")


def check_labels(labels: np.ndarray, names: Sequence[str], limits: Sequence[int], where: str) -> None:
    """Raise CnnjaxError if a label, one column each name, names no class."""
    for column, (name, limit) in enumerate(zip(names, limits)):
        wrong = np.flatnonzero((labels[:, column] < 0) | (labels[:, column] >= limit))
        if len(wrong):
            value = int(labels[wrong[0], column])
            raise CnnjaxError(f"{where} {name} {value} of example {wrong[0]} is out of range [0, {limit}).")


def allow_open_files(number: int) -> None:
    """Let the process keep that many more files open: each stays so once read, and many systems allow 1,024."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        number += _OTHER_FILES
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 <= soft < number:
            resource.setrlimit(resource.RLIMIT_NOFILE, (number if hard < 0 else min(number, hard), hard))


@functools.cache
def _parse() -> Any:
    from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example.FromString  # pyright: ignore[reportAttributeAccessIssue]


def said(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
