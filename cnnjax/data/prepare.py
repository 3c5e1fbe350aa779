"""From sources to a prepared directory: the first source that works, verified, all or nothing."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cnnjax.data import prepared
from cnnjax.data.content import Examples, canonical
from cnnjax.data.entry import Entry
from cnnjax.data.sources import LocalFolder, Log, Source
from cnnjax.errors import CnnjaxError

_LEFTOVER = ".incomplete-"

OFFLINE = (
    "Without a network these work: the embedded dataset digits; your own images as folder:DIR; "
    "a folder with the dataset's files, named as source_dir (--source-dir)"
)


def prepare(entry: Entry, data_dir: Path, source_dir: Path | None, log: Log) -> Path:
    """Make sure that a dataset is prepared, and return where; with a folder of its files, of no other source."""
    final = prepared.directory(entry, data_dir)
    if prepared.is_prepared(entry, data_dir):
        return final
    # What is embedded has no files to look for.
    named = source_dir if entry.layouts else None
    sources = entry.sources if named is None else (LocalFolder(named, entry.layouts),)

    def make(work: Path) -> Path:
        splits, source = first_source(entry, sources, work, log)
        log(f"writing {entry.name}: {sum(map(len, splits.values())):,} examples to {final}")
        digests = {name: canonical(examples)[1] for name, examples in splits.items()}
        written = prepared.write(entry, splits, work / "written", {"source": source, "digests": digests})
        verify(entry, prepared.read(entry, written), f"what was written to {written}", prepared.read_record(written))
        return written

    return all_or_nothing(entry, data_dir, log, make)


def all_or_nothing(entry: Entry, data_dir: Path, log: Log, make: Callable[[Path], Path]) -> Path:
    """Return where a dataset is prepared, after moving there what is made in a hidden folder, unless another was first.

    A run that is killed leaves at most the hidden folder, and the next one removes it.
    """
    final = prepared.directory(entry, data_dir)
    try:
        with _workplace(final.parent, log) as work:
            if not prepared.is_prepared(entry, data_dir):  # else another process did it while this one waited
                _move(make(work), final)
    except (OSError, RuntimeError) as error:  # array_record's writer raises RuntimeError when the disk is full
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise CnnjaxError(f"{final}: cannot be written ({reason}). Name another folder as data_dir.") from error
    return prepared.directory(entry, data_dir)


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
        prepared.check_labels(entry, np.stack(columns, axis=1), f"{where}: {name}")
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


def _move(written: Path, final: Path) -> None:
    """Make what was written the final place, unless another process was first."""
    try:
        written.rename(final)
    except OSError:
        if not (final / "dataset_info.json").is_file():  # else another process was first, with the same content
            raise


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
    """Whether the locked folder is still the one at that path: whoever held the lock may have removed it."""
    try:
        return os.path.samestat(os.fstat(handle), folder.stat())
    except FileNotFoundError:
        return False
