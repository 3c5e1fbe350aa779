"""Datasets by name: from wherever they are to three splits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnnjax.data import named_sets, prepared
from cnnjax.data.dataset import Dataset, DatasetInfo, check_validation
from cnnjax.data.folder import load_folder_spec
from cnnjax.data.formats import Examples
from cnnjax.data.prepare import prepare as prepare_entry
from cnnjax.data.prepare import verify
from cnnjax.data.resident import Size, Split
from cnnjax.data.sources import Embedded, Entry
from cnnjax.data.tfds_names import Spec, find, is_known
from cnnjax.data.tfds_sets import check_imagenet, load_imagenet, load_tfds
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
    choose_size: Callable[[], Size] | None = None,
    log: Log | None = None,
) -> Dataset:
    """Read a dataset into memory, preparing it first if that was not done before.

    A prepared dataset is read from `data_dir/NAME/VERSION`, where TFDS has it. Otherwise its sources are tried in
    turn. Either way the content is verified, and examples come in an order that depends on the content alone.

    What does not fit in memory is streamed, `imagenet2012` among it: images are read anew each epoch.

    Args:
      name: One of `available()`; `folder:DIR` for images of one's own, see `load_folder` (the name of a folder that is
        there means that too); or `tfds:NAME[/CONFIG][:VERSION]` for any set of one image and one class label an example
        that TFDS prepared, with parts in TFDS's words: `tfds:mnist?train=train[:90%]&validation=train[90%:]`.
      data_dir: Folder of prepared datasets; None for TFDS's own.
      source_dir: Folder with the dataset's files; used when it is not prepared, and then instead of all other sources.
      validation: How many examples to take out of the training set; None for the dataset's own number.
      image_size: Size that images are resized to inside jit; None for as stored. A streamed set's images are cut to it
        when they are read; None for 224x224.
      resize_size: Pixels of the shorter side from whose centre a streamed set's evaluation images are cut; None for
        8/7 of `image_size`, such as 256 for 224.
      pixel_range: For folders, what black and white are stored as in pixels deeper than 8 bits; None for what the files
        say.
      choose_size: Called for an image size where none is given and the images differ in size; without it such a folder
        is refused, and a TFDS set cut to 224x224.
      log: Called with lines about what is going on; None to say nothing.
    Returns:
      The splits. The test set is never touched.
    Raises:
      UsageError: If the name is not known or the numbers do not fit.
      CnnjaxError: If the data cannot be had, or are not what they should be.
    """
    name, place, say = resolve(name), _data_dir(data_dir), log or _silent
    sizes = {"validation": validation, "image_size": image_size, "resize_size": resize_size}
    if name.startswith("folder:"):
        return load_folder_spec(name, **sizes, pixel_range=pixel_range, choose_size=choose_size, log=log)
    if pixel_range is not None:
        raise UsageError(f"pixel range: {name}'s pixels are 8 bits deep. Leave it out; it is for folders of images.")
    if name.startswith("tfds:"):
        return load_tfds(name, place, say, **sizes, choose_size=choose_size)
    entry = named_sets.get(name)
    if entry.streamed:
        return load_imagenet(entry, place, _path(source_dir), say, **sizes)
    if resize_size is not None:
        raise UsageError(f"resize size: {name} is kept in memory at one size, so there is nothing to cut from.")
    content, source = _content(entry, place, source_dir, say)
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
    check_validation(info.name, taken, len(content["train"][0]))
    places = {"train": slice(taken, None), "validation": slice(0, taken), "test": slice(None)}
    splits = {}
    for part, chosen in places.items():
        prefix = "test" if part == "test" else "train"
        examples = content[prefix][0]
        ids = [f"{prefix}-{number:05d}" for number in range(len(examples))[chosen]]
        splits[part] = Split(part, examples.images[chosen], examples.labels[chosen], ids, info.mean, info.std)
    return Dataset(**splits, info=info).resized(image_size)


def resolve(name: str) -> str:
    """Return a dataset's full name: of a folder `folder:DIR`, of one that TFDS alone knows `tfds:NAME`.

    Args:
      name: As the user wrote it, options after a question mark included.
    """
    if name.startswith(("folder:", "tfds:", "hf:")) or name in named_sets.available():
        return name
    if Path(name).expanduser().is_dir() or Path(name.rpartition("?")[0] or "?").expanduser().is_dir():
        return f"folder:{name}"
    return f"tfds:{name}" if is_known(name) else name


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
      name: One of `available()`, or `tfds:NAME`, which has to be there.
      data_dir: Folder of prepared datasets; None for TFDS's own.
      source_dir: Folder with the dataset's files, to be used instead of all other sources.
      log: Called with lines about what is going on; None to say nothing.
    Raises:
      UsageError: If the name is not known.
      CnnjaxError: If no source can be used, or what is there is damaged.
    """
    name = resolve(name)
    if name.startswith("tfds:"):
        spec = Spec.of(name)
        load_tfds(name, _data_dir(data_dir), log or _silent, validation=None, image_size=None, resize_size=None)
        return find(spec, _data_dir(data_dir))
    entry = named_sets.get(name)
    if entry.streamed:
        return check_imagenet(entry, _data_dir(data_dir), _path(source_dir), log or _silent)
    place = _data_dir(data_dir)
    there = prepared.has_info(prepared.directory(entry, place))
    path = prepare_entry(entry, place, _path(source_dir), log or _silent)
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
    for name in named_sets.available():
        entry = named_sets.get(name)
        path, note = prepared.directory(entry, _data_dir(data_dir)), None
        there = prepared.has_info(path)
        if there:
            try:
                prepared.check_format(path)
            except CnnjaxError as error:
                there, note = False, str(error)
        rows.append(
            {
                "name": name,
                "prepared": str(path) if there else None,
                "note": note,
                "train": entry.counts["train"],
                "test": entry.counts["test"],
                "classes": len(entry.class_names),
                "image_shape": list(entry.image_shape),
                "sources": [source.title for source in entry.sources],
            }
        )
    return rows


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
