"""From sources to a prepared directory: the first source that works, verified, written through TFDS, all or nothing."""

import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.data import png, prepared
from cnnjax.data.formats import Examples, canonical
from cnnjax.data.sources import Entry, LocalFolder, Log, Source
from cnnjax.errors import CnnjaxError

_LEFTOVER = ".incomplete-"

OFFLINE = (
    "Without a network these work: the embedded dataset digits; your own images as folder:DIR; "
    "a folder with the dataset's files, named as source_dir (--source-dir)"
)


def prepare(entry: Entry, data_dir: Path, source_dir: Path | None, log: Log) -> Path:
    """Make sure that a dataset is prepared, and return where; with a folder of its files, of no other source."""
    final = prepared.directory(entry, data_dir)
    if prepared.has_info(final):
        return final
    # What is embedded has no files to look for.
    named = source_dir if entry.layouts else None
    sources = entry.sources if named is None else (LocalFolder(named, entry.layouts),)

    def make(work: Path) -> Path:
        splits, source = first_source(entry, sources, work, log)
        log(f"writing {entry.name}: {sum(map(len, splits.values())):,} examples to {final}")
        digests = {name: canonical(examples)[1] for name, examples in splits.items()}
        written = write(entry, splits, work / "written", {"source": source, "digests": digests})
        verify(entry, prepared.read(entry, written), f"what was written to {written}", prepared.read_record(written))
        return written

    return all_or_nothing(entry, data_dir, log, make)


def all_or_nothing(entry: Entry, data_dir: Path, log: Log, make: Callable[[Path], Path]) -> Path:
    """Return where a dataset is prepared, after moving there what is made in a hidden folder; the first one wins."""
    final = prepared.directory(entry, data_dir)
    try:
        with _workplace(final.parent, log) as work:
            if not prepared.has_info(final):  # else another process did it while this one waited
                make(work).rename(final)
    except (OSError, RuntimeError) as error:  # array_record's writer raises RuntimeError when the disk is full
        if prepared.has_info(final):  # without locks another process may have been first, with the same content
            return final
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise CnnjaxError(f"{final}: cannot be written ({reason}). Name another folder as data_dir.") from error
    return final


def first_source(entry: Entry, sources: Sequence[Source], work: Path, log: Log) -> tuple[dict[str, Examples], str]:
    """Return the verified content from the first source that gives it, and the source's title."""
    failed = []
    for number, source in enumerate(sources):
        place = work / f"source-{number}"
        place.mkdir(parents=True)
        try:
            splits = verify(entry, source.read(place, log), source.title)
            return {name: examples for name, (examples, _) in splits.items()}, source.title
        except CnnjaxError as error:
            failed.append(f"{source.title}: {str(error).rstrip('.')}")
            log(f"cannot use {failed[-1]}.")
        finally:
            shutil.rmtree(place, ignore_errors=True)
    listed = "; ".join(f"({number}) {reason}" for number, reason in enumerate(failed, 1))
    raise CnnjaxError(f"{entry.name} is not prepared and no source of it can be used. Tried: {listed}. {OFFLINE}.")


def verify(
    entry: Entry, splits: Mapping[str, Examples], where: str, record: Mapping | None = None
) -> dict[str, tuple[Examples, str]]:
    """Return each split in canonical order with its digest, or refuse it."""
    known = entry.digests or (record or {}).get("digests") or {}
    result = {}
    for name, count in entry.counts.items():
        examples = splits[name]
        if len(examples) != count:
            raise CnnjaxError(f"{where}: expected {count:,} {name} examples of {entry.name}, got {len(examples):,}.")
        columns = [examples.labels] if examples.coarse is None else [examples.labels, examples.coarse]
        limits = len(entry.class_names), len(entry.coarse_names)
        prepared.check_labels(np.stack(columns, axis=1), entry.label_columns, limits, f"{where}: {name}:")
        result[name] = canonical(examples)
        if name in known and known[name] != result[name][1]:
            raise CnnjaxError(
                f"{where}: wrong content of the {name} split (digest {result[name][1][:12]}..., expected "
                f"{known[name][:12]}...): not {entry.name}, or damaged."
            )
        if entry.digests is None:
            _check_structure(entry, name, examples, where)
    return result


def _check_structure(entry: Entry, split: str, examples: Examples, where: str) -> None:
    """Check what is known of a dataset whose digest is not: class counts, families, sums of the pixels."""
    each = entry.counts[split] // len(entry.class_names)
    counts = np.bincount(examples.labels, minlength=len(entry.class_names))
    if (counts != each).any():
        wrong = int(np.flatnonzero(counts != each)[0])
        name = entry.class_names[wrong]
        raise CnnjaxError(f"{where}: expected {each} {split} examples of class {name}, got {counts[wrong]}.")
    if examples.coarse is not None and (np.array(entry.parents)[examples.labels] != examples.coarse).any():
        raise CnnjaxError(f"{where}: superclass labels of the {split} split do not fit the class labels.")
    if split == "train":
        pixels = examples.images.reshape(-1, entry.image_shape[2])
        counts = [np.bincount(column, minlength=256) for column in pixels.T]
        values = np.arange(256)
        moments = tuple((int(count @ values), int(count @ values**2)) for count in counts)
        if entry.moments and moments != entry.moments:
            raise CnnjaxError(f"{where}: the pixels of the {split} split add up to the wrong sums: not {entry.name}.")


def write(entry: Entry, content: Mapping[str, Any], root: Path, record: Mapping[str, Any]) -> Path:
    """Write examples, by TFDS's split, as array_record files with their metadata and record; return the folder."""
    import tensorflow_datasets as tfds

    builder = builder_class(entry, content)(data_dir=str(root), file_format="array_record")
    settings = tfds.download.DownloadConfig(try_download_gcs=False)
    # TFDS prints to stdout, which may be promised to somebody else.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        builder.download_and_prepare(download_config=settings)
    path = root / entry.name / entry.version
    (path / prepared.RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return path


def builder_class(entry: Entry, content: Mapping[str, Any] | None = None) -> Any:
    """Return a TFDS builder that writes content which was verified elsewhere, `Examples` or mappings of features.

    It is not registered with TFDS, whose own builder keeps the name. Stock builders hand arrays to TensorFlow for
    encoding; bytes that are PNG already need none.
    """
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(entry.version)

        def _info(self):
            about: dict[str, Any] = {"description": entry.description, "homepage": entry.homepage}
            keys = ("image", "label")
            return tfds.core.DatasetInfo(builder=self, features=features(entry), supervised_keys=keys, **about)

        # Without the base's argument `pipeline`: TFDS would load Beam to pass one.
        def _split_generators(self, dl_manager):  # pyright: ignore[reportIncompatibleMethodOverride]
            return {split: self._generate_examples(split) for split in content or {}}

        def _generate_examples(self, split):
            return _keyed_examples(entry, split, (content or {})[split])

    Builder.name = entry.name
    return Builder


def _keyed_examples(entry: Entry, split: str, examples: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    if not isinstance(examples, Examples):
        for example in examples:
            yield example["file_name"], example
        return
    for place, image in enumerate(examples.images):
        example = {"image": png.encode(image), "label": int(examples.labels[place])}
        if entry.coarse_names and examples.coarse is not None:
            example["coarse_label"] = int(examples.coarse[place])
        if entry.has_id:
            example["id"] = f"{split}_{place:05d}"
        yield place, example


def features(entry: Entry) -> Any:
    """Return the features of a dataset, equal to those of TFDS's own builder."""
    from tensorflow_datasets import features as tfds

    if entry.streamed:
        image, classes = tfds.Image(encoding_format="jpeg"), tfds.ClassLabel(names=entry.class_names)
        return tfds.FeaturesDict({"image": image, "label": classes, "file_name": tfds.Text()})
    names, number = (entry.class_names, None) if entry.names_known else (None, len(entry.class_names))
    found = {"image": tfds.Image(shape=entry.image_shape), "label": tfds.ClassLabel(names=names, num_classes=number)}
    if entry.coarse_names:
        found["coarse_label"] = tfds.ClassLabel(names=entry.coarse_names)
    if entry.has_id:
        found["id"] = tfds.Text()
    return tfds.FeaturesDict(found)


@contextlib.contextmanager
def _workplace(parent: Path, log: Log) -> Iterator[Path]:
    """Lock the folder, clear what killed runs left, give a fresh hidden folder, and leave nothing of it behind."""
    made = [path for path in (parent, parent.parent) if not path.exists()]
    with _locked(parent, log) as alone:
        if alone:
            for leftover in parent.glob(f"{_LEFTOVER}*"):
                shutil.rmtree(leftover, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=_LEFTOVER, dir=parent))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
            for path in made:
                with contextlib.suppress(OSError):
                    path.rmdir()  # only where nothing came of it


@contextlib.contextmanager
def _locked(folder: Path, log: Log) -> Iterator[bool]:
    """Hold a lock on the folder itself, so that no lock file stays; False where the system has no such lock."""
    try:
        import fcntl
    except ImportError:
        folder.mkdir(parents=True, exist_ok=True)
        yield False
        return
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log(f"another process is preparing {folder.name}: waiting for it")
                fcntl.flock(handle, fcntl.LOCK_EX)
            except OSError:  # some network file systems
                yield False
                return
            if _same(handle, folder):
                yield True
                return
        finally:
            os.close(handle)


def _same(handle: int, folder: Path) -> bool:
    """Return whether the locked folder is still at that path: whoever held the lock may have removed it."""
    try:
        return os.path.samestat(os.fstat(handle), folder.stat())
    except FileNotFoundError:
        return False
