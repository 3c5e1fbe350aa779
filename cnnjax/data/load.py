"""Datasets by name: from wherever they are to three splits in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnnjax.data import catalogue, prepared
from cnnjax.data.content import Examples
from cnnjax.data.entry import Entry, check_validation
from cnnjax.data.folder import load_folder_spec
from cnnjax.data.prepare import prepare as prepare_entry
from cnnjax.data.prepare import verify
from cnnjax.data.records import check_records, load_records
from cnnjax.data.resident import Dataset, DatasetInfo, Size, Split, as_size
from cnnjax.data.sources import Embedded
from cnnjax.errors import CnnjaxError, UsageError

Log = Callable[[str], None]


def load_dataset(
    name: str,
    *,
    data_dir: str | Path | None = None,
    source_dir: str | Path | None = None,
    validation: int | None = None,
    image_size: Size = None,
    resize_size: int | None = None,
    pixel_range: tuple[float, float] | None = None,
    log: Log | None = None,
) -> Dataset:
    """Read a dataset into memory, preparing it first if that was not done before.

    A prepared dataset is read from `data_dir/NAME/VERSION`, where TFDS has it. Otherwise its sources are tried in
    turn. Either way the content is verified, and examples come in an order that depends on the content alone.

    What does not fit in memory is streamed: `imagenet2012`, see `records.load_records`, and large folders, see
    `load_folder`. Its images are read anew each epoch, see `streamed.StreamedSplit`.

    Args:
      name: One of `available()`, or `folder:DIR` for a user's own images, see `load_folder`; the name of a folder that
        is there means that too.
      data_dir: Folder of prepared datasets; None for TFDS's own.
      source_dir: Folder with the dataset's files; used when it is not prepared, and then instead of all other sources.
      validation: How many examples to take out of the training set; None for the dataset's own number.
      image_size: Size that images are resized to inside jit; None for as stored. A streamed set's images are cut to it
        when they are read; None for 224x224.
      resize_size: Pixels of the shorter side from whose centre a streamed set's evaluation images are cut; None for
        8/7 of `image_size`, such as 256 for 224.
      pixel_range: For folders, what black and white are stored as in pixels deeper than 8 bits; None for what the files
        say.
      log: Called with lines about what is going on; None to say nothing.
    Returns:
      The splits. The test set is never touched.
    Raises:
      UsageError: If the name is not known or the numbers do not fit.
      CnnjaxError: If the data cannot be had, or are not what they should be.
    """
    name = resolve(name)
    if name.startswith("folder:"):
        sizes = {"validation": validation, "image_size": image_size, "resize_size": resize_size}
        return load_folder_spec(name, **sizes, pixel_range=pixel_range, log=log)
    if pixel_range is not None:
        raise UsageError(f"pixel range: {name}'s pixels are 8 bits deep. Leave it out; it is for folders of images.")
    entry = catalogue.get(name)
    if entry.streamed:
        place, files, say = _data_dir(data_dir), _path(source_dir), log or _silent
        options = {"validation": validation, "image_size": image_size, "resize_size": resize_size}
        return load_records(entry, place, files, say, **options)
    if resize_size is not None:
        raise UsageError(f"resize size: {name} is kept in memory at one size, so there is nothing to cut from.")
    content, source = _content(entry, _data_dir(data_dir), source_dir, log or _silent)
    info = DatasetInfo(
        name=entry.name,
        num_classes=len(entry.class_names),
        class_names=entry.class_names,
        image_shape=entry.image_shape,
        mean=entry.mean,
        std=entry.std,
        source=source,
        digests={split: digest for split, (_, digest) in content.items()},
    )
    taken = entry.validation if validation is None else validation
    return make_dataset(content["train"][0], content["test"][0], info, taken, image_size)


def resolve(name: str) -> str:
    """Return a dataset's full name: of one that is not known but is a folder, `folder:DIR`.

    Args:
      name: As the user wrote it, options after a question mark included.
    """
    known = name.startswith("folder:") or name in catalogue.available()
    folder = not known and (Path(name).expanduser().is_dir() or Path(name.rpartition("?")[0] or "?").is_dir())
    return f"folder:{name}" if folder else name


def prepare(
    name: str,
    *,
    data_dir: str | Path | None = None,
    source_dir: str | Path | None = None,
    log: Log | None = None,
) -> Path:
    """Make sure that a dataset is prepared, and return the folder; a prepared one is read and verified.

    Of a streamed one that is there the format, the features and the number of examples are verified.

    Args:
      name: One of `available()`.
      data_dir: Folder of prepared datasets; None for TFDS's own.
      source_dir: Folder with the dataset's files, to be used instead of all other sources.
      log: Called with lines about what is going on; None to say nothing.
    Raises:
      UsageError: If the name is not known.
      CnnjaxError: If no source can be used, or what is there is damaged.
    """
    entry = catalogue.get(name)
    if entry.streamed:
        return check_records(entry, _data_dir(data_dir), _path(source_dir), log or _silent)
    there = prepared.is_prepared(entry, _data_dir(data_dir))
    path = prepare_entry(entry, _data_dir(data_dir), _path(source_dir), log or _silent)
    if there:
        verify(entry, prepared.read(entry, path), str(path), prepared.read_record(path))
    return path


def describe_sources(data_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """Return what is known about every dataset without reading any, one row each.

    Args:
      data_dir: Folder of prepared datasets; None for TFDS's own.
    Returns:
      Rows with the keys `name`, `prepared` (the folder, or None), `note` (why what is there can't be
      read, or None), `train`, `test`, `classes`, `image_shape`,
      `sources` (titles, in the order in which they are tried).
    """
    rows = []
    for name in catalogue.available():
        entry = catalogue.get(name)
        there, note = prepared.is_prepared(entry, _data_dir(data_dir)), None
        if there:
            try:
                prepared.check_format(prepared.directory(entry, _data_dir(data_dir)))
            except CnnjaxError as error:
                there, note = False, str(error)
        rows.append(
            {
                "name": name,
                "prepared": str(prepared.directory(entry, _data_dir(data_dir))) if there else None,
                "note": note,
                "train": entry.counts["train"],
                "test": entry.counts["test"],
                "classes": len(entry.class_names),
                "image_shape": list(entry.image_shape),
                "sources": [source.title for source in entry.sources],
            }
        )
    return rows


def make_dataset(
    train: Examples,
    test: Examples,
    info: DatasetInfo,
    validation: int,
    image_size: Size,
    own_validation: Examples | None = None,
) -> Dataset:
    """Return the dataset made of training and test examples, with the first ones of training put aside."""
    check_validation(info.name, validation, len(train))
    size = as_size(image_size)
    held_out = train.take(slice(0, validation)) if own_validation is None else own_validation

    def split(name: str, examples: Examples, prefix: str, first: int) -> Split:
        ids = examples.ids
        if ids is None:
            ids = [f"{prefix}-{number:05d}" for number in range(first, first + len(examples))]
        made = Split(name, examples.images, examples.labels, ids, info.mean, info.std)
        return made.resized(size)

    return Dataset(
        train=split("train", train.take(slice(validation, None)), "train", validation),
        validation=split("validation", held_out, "train", 0),
        test=split("test", test, "test", 0),
        info=info,
    )


def _content(
    entry: Entry, data_dir: Path, source_dir: str | Path | None, log: Log
) -> tuple[dict[str, tuple[Examples, str]], str]:
    """Return the verified splits with their digests, and a line about where they came from."""
    try:
        path = prepare_entry(entry, data_dir, _path(source_dir), log)
    except CnnjaxError as error:
        embedded = [source for source in entry.sources if isinstance(source, Embedded)]
        if not embedded:
            raise
        # A read-only home must not stop what needs no file at all.
        log(f"using {entry.name} without preparing it: {error}")
        return verify(entry, embedded[0].load(), embedded[0].title), embedded[0].title
    record = prepared.read_record(path)
    content = verify(entry, prepared.read(entry, path), str(path), record)
    origin = f"made from {record['source']}" if "source" in record else "not prepared by cnnjax"
    checked = "content verified" if entry.digests or "digests" in record else "class counts and pixel sums verified"
    return content, f"{path} ({origin}; {checked})"


def _data_dir(data_dir: str | Path | None) -> Path:
    return prepared.default_data_dir() if data_dir is None else Path(data_dir).expanduser()


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path).expanduser()


def _silent(line: str) -> None:
    pass
