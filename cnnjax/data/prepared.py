"""Prepared directories: written through TFDS in one atomic move, and read back through `tfds.data_source`."""

import contextlib
import io
import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.data import png
from cnnjax.data.content import Examples
from cnnjax.data.entry import Entry
from cnnjax.errors import CnnjaxError

# Beside TFDS's own files: where the content came from and what it was when it was verified.
_RECORD = "cnnjax.json"
_CHUNK = 4096


def default_data_dir() -> Path:
    """Return the folder of prepared datasets, TFDS's own: `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def directory(entry: Entry, data_dir: Path) -> Path:
    """Return where a dataset lies once it is prepared, the same place as with TFDS."""
    found = (data_dir / entry.name / version for version in (entry.version, *entry.older_versions))
    return next((path for path in found if _has_info(path)), data_dir / entry.name / entry.version)


def is_prepared(entry: Entry, data_dir: Path) -> bool:
    """Return whether there is a prepared dataset, in whatever format."""
    return _has_info(directory(entry, data_dir))


def _has_info(path: Path) -> bool:
    return os.path.isfile(path / "dataset_info.json")  # False, too, where looking is not allowed


def write(entry: Entry, content: Mapping[str, Any], root: Path, record: Mapping[str, Any]) -> Path:
    """Write examples, by TFDS's split, as array_record files with their metadata and record; return the folder."""
    import tensorflow_datasets as tfds

    from cnnjax.data.builders import builder_class

    builder = builder_class(entry)(data_dir=str(root), file_format="array_record")
    builder.content = content
    settings = tfds.download.DownloadConfig(try_download_gcs=False)
    # TFDS prints to stdout, which may be promised to somebody else.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        builder.download_and_prepare(download_config=settings)
    path = root / entry.name / entry.version
    (path / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return path


def read_record(path: Path) -> dict:
    """Return the record of a directory that cnnjax prepared; empty for one that something else prepared."""
    try:
        record = json.loads((path / _RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CnnjaxError(f"{path / _RECORD}: cannot be read ({error}). Delete {path} and prepare again.") from error
    return record if isinstance(record, dict) else {}


def read(entry: Entry, path: Path) -> dict[str, Examples]:
    """Read a prepared directory, whoever prepared it, into memory."""
    check_format(path)
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(builder_dir=str(path))
        _check_features(entry, builder.info, path)
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        open_split = builder.as_data_source  # pyright cannot see through its decorator
        sources = {split: open_split(split, deserialize_method=raw) for split in ("train", "test")}  # pyright: ignore
        return {split: _read_split(entry, source, f"{path}: {split}") for split, source in sources.items()}
    except CnnjaxError:
        raise
    except Exception as error:  # TFDS and array_record raise anything, RuntimeError and protobuf's own included
        said = " ".join(str(error).split())[:200]
        raise CnnjaxError(f"{path}: damaged ({said}). Delete it and prepare {entry.name} again.") from error


def check_format(path: Path) -> None:
    """Raise CnnjaxError, with the command that converts it, if a prepared directory needs TensorFlow to be read."""
    try:
        info = json.loads((path / "dataset_info.json").read_text(encoding="utf-8"))
        formats = {info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", ())}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CnnjaxError(f"{path / 'dataset_info.json'}: cannot be read ({error}).") from error
    if "array_record" not in formats:
        convert = f"tfds convert_format --dataset_version_dir={shlex.quote(str(path))} --out_file_format=array_record"
        raise CnnjaxError(
            f"{path}: prepared as {'/'.join(sorted(formats))}, which needs TensorFlow to read. Where tensorflow, "
            f"apache-beam and mlcroissant are installed, convert it with: {convert}"
        )


def _check_features(entry: Entry, info, path: Path) -> None:
    features = info.features
    wanted = {"image", *entry.label_columns}
    if not wanted <= set(features):
        raise CnnjaxError(f"{path}: expected the features {sorted(wanted)} of {entry.name}, got {sorted(features)}.")
    if tuple(features["image"].shape) != entry.image_shape:
        raise CnnjaxError(f"{path}: expected images {entry.image_shape}, got {tuple(features['image'].shape)}.")
    for split, count in entry.counts.items():
        if split not in info.splits or info.splits[split].num_examples != count:
            got = info.splits[split].num_examples if split in info.splits else "no such split"
            raise CnnjaxError(f"{path}: expected {count:,} {split} examples of {entry.name}, got {got}.")


def _read_split(entry: Entry, source, where: str) -> Examples:
    from tensorflow_datasets.proto import tf_example_pb2

    images = np.empty((len(source), *entry.image_shape), np.uint8)
    labels = np.empty((len(source), len(entry.label_columns)), np.int64)
    parse = tf_example_pb2.Example.FromString  # pyright: ignore[reportAttributeAccessIssue]
    for start in range(0, len(source), _CHUNK):
        places = range(start, min(start + _CHUNK, len(source)))
        features = [parse(record).features.feature for record in source.__getitems__(places)]
        try:
            files = [feature["image"].bytes_list.value[0] for feature in features]
            for column, name in enumerate(entry.label_columns):
                labels[start : places.stop, column] = [feature[name].int64_list.value[0] for feature in features]
            images[start : places.stop] = png.decode(files, entry.image_shape)
        except (ValueError, IndexError) as error:
            raise CnnjaxError(f"{where}: examples {start} to {places.stop - 1} are damaged ({error}).") from error
    check_labels(entry, labels, where)
    coarse = labels[:, 1].astype(np.int32) if entry.coarse_names else None
    return Examples(images, labels[:, 0].astype(np.int32), coarse)


def check_labels(entry: Entry, labels: np.ndarray, where: str) -> None:
    """Raise CnnjaxError if a label names no class."""
    for column, name in enumerate(entry.label_columns):
        limit = len(entry.coarse_names if column else entry.class_names)
        wrong = np.flatnonzero((labels[:, column] < 0) | (labels[:, column] >= limit))
        if len(wrong):
            value = int(labels[wrong[0], column])
            raise CnnjaxError(f"{where}: {name} {value} of example {wrong[0]} is out of range [0, {limit}).")
