"""Sets in TFDS's files whose images are of any size: those of any name, and ImageNet."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.data import prepared
from cnnjax.data.crops import Crops
from cnnjax.data.dataset import MOST_BYTES, SPLITS, Dataset, DatasetInfo, check_validation, with_statistics
from cnnjax.data.imagenet import check_info, prepare_tars
from cnnjax.data.order import fixed_sample
from cnnjax.data.prepared import Columns, Records
from cnnjax.data.resident import Size, Split, as_size
from cnnjax.data.sources import Entry, Log, Manual
from cnnjax.data.streamed import StreamedSplit
from cnnjax.data.tfds_names import Spec, find
from cnnjax.errors import CnnjaxError, UsageError

# Of what is to be divided, the part for testing, and the part for validation.
_SHARE = 0.15
# What images of all sizes are cut to unless the caller says otherwise.
_USUAL = (224, 224)
_IDS = ("id", "file_name", "filename", "image/filename", "image_id")


def load_tfds(
    text: str,
    data_dir: Path,
    log: Log,
    *,
    validation: int | None,
    image_size: Size,
    resize_size: int | None,
    choose_size: Callable[[], Size] | None = None,
) -> Dataset:
    """Open a set that TFDS prepared: small ones are read into memory, large ones and random crops are streamed.

    Its splits `train`, `validation` and `test` are taken unless the text names others; of what is missing, 15 % of the
    training examples are put aside, by `fixed_sample`: the same ones each time.
    """
    spec = Spec.of(text)
    path, size = find(spec, data_dir), as_size(image_size)
    prepared.check_format(path, tfrecord=True)
    with prepared.damage_named(path, spec.name):
        builder = prepared.builder_of(path)
        columns, shape, names = _features(path, builder.info)
        texts = _splits(spec, path, builder.info.splits, validation)
        files = {part: prepared.files_of(builder, text) for part, text in texts.items()}
        prepared.allow_open_files(sum(map(len, files.values())))
        digests = {part: prepared.digest_of(files[part], text) for part, text in texts.items()}
        limits = (len(names),)
        found = {
            part: prepared.open_records(builder, text, f"{path}: {text}", limits, columns)
            for part, text in texts.items()
        }
    chosen = _divide(spec, found, validation)
    taken = " and ".join(part for part in SPLITS if part not in texts and len(chosen[part][1]))
    line = f"{text}: {len(names):,} classes, {', '.join(f'{part} {len(chosen[part][1]):,}' for part in SPLITS)}"
    log(f"{line}; {taken} taken from train" if taken else line)
    digests = {"train": digests["train"], "test": digests.get("test", digests["train"])}
    info = DatasetInfo(text, len(names), names, shape, (), (), f"{path} (prepared by TFDS)", digests)
    basis = ["train"] if "validation" in texts else ["train", "validation"]
    total = sum(len(places) for _, places in chosen.values())
    if None not in shape and not spec.random_crop and total * math.prod(shape) <= MOST_BYTES:
        if resize_size is not None:
            raise UsageError(f"resize size: {text} is kept in memory at one size, so there is nothing to cut from.")
        return with_statistics(info, _in_memory(chosen, shape), basis=basis).resized(size)
    if size is None:
        size = (as_size(choose_size()) if choose_size else None) or _USUAL if None in shape else shape[:2]
        log(f"{text}: images are cut to {size[1]}×{size[0]}; --image-size states another size")
    resize = round(max(size) * 8 / 7) if spec.random_crop and resize_size is None else resize_size
    return _cut(info, chosen, Crops(size=size, resize=resize, random=spec.random_crop), basis)


def _features(path: Path, info: Any) -> tuple[Columns, tuple[Any, Any, int], tuple[str, ...]]:
    """Return which features are read, the images' shape, None where it differs, and the class names."""
    import tensorflow_datasets as tfds

    found = dict(info.features) if isinstance(info.features, tfds.features.FeaturesDict) else {}
    # Not of a class derived from it: that is a picture of labels.
    images = [name for name, feature in found.items() if type(feature) is tfds.features.Image]
    labels = [name for name, feature in found.items() if isinstance(feature, tfds.features.ClassLabel)]
    keys = info.supervised_keys or (None, None)
    images, labels = ([key] if key in names else names for key, names in zip(keys, (images, labels)))
    if len(images) != 1 or len(labels) != 1:
        has = (
            ", ".join(f"{name} ({type(feature).__name__})" for name, feature in sorted(found.items())) or info.features
        )
        raise CnnjaxError(f"{path}: expected one Image and one ClassLabel an example, got {has}.")
    image: Any = found[images[0]]
    label: Any = found[labels[0]]
    if image.np_dtype != np.uint8:
        raise CnnjaxError(f"{path}: expected {images[0]} of 8 bits, got {np.dtype(image.np_dtype)}.")
    text = next((n for n in _IDS if isinstance(found.get(n), tfds.features.Text)), None)
    height, width, channels = image.shape
    return Columns(images[0], (labels[0],), text), (height, width, 1 if channels == 1 else 3), tuple(label.names)


def _splits(spec: Spec, path: Path, splits: Any, validation: int | None) -> dict[str, str]:
    """Return which of TFDS's splits, or parts of them, is which of ours; they must not overlap."""
    import tensorflow_datasets as tfds

    texts = {part: spec.splits.get(part, part) for part in SPLITS if part in spec.splits or part in splits}
    if "train" not in texts:
        raise UsageError(f"{path}: has no split train, only {', '.join(splits)}. Name one: {spec.text}?train=SPLIT.")
    if "validation" in texts and validation is not None:
        raise UsageError(f"{path}: has a split for validation, so no number for it can be stated.")
    spans = {}
    for part, text in texts.items():
        try:
            found = tfds.core.ReadInstruction.from_spec(text).to_absolute(splits)
        except (ValueError, KeyError, AssertionError) as error:
            raise UsageError(
                f"dataset {spec.text!r}: {part}={text} is none of its splits ({', '.join(sorted(splits))}), nor a part "
                "of them in TFDS's words, such as train[:90%]."
            ) from error
        ends = [splits[a.splitname].num_examples if a.to is None else a.to for a in found]
        spans[part] = [(a.splitname, a.from_ or 0, end) for a, end in zip(found, ends)]
        if not any(start < end for _, start, end in spans[part]):
            raise UsageError(f"dataset {spec.text!r}: {part}={text} holds no examples.")
    for one, other in itertools.combinations(spans, 2):
        for (a, a_start, a_end), (b, b_start, b_end) in itertools.product(spans[one], spans[other]):
            if a == b and max(a_start, b_start) < min(a_end, b_end):
                raise UsageError(
                    f"dataset {spec.text!r}: {one}={texts[one]} and {other}={texts[other]} have examples in common. "
                    "State both, such as ?train=train[:90%]&validation=train[90%:]."
                )
    return texts


def _divide(spec: Spec, found: Mapping[str, Records], validation: int | None) -> dict[str, tuple[Records, np.ndarray]]:
    """Return the places of each split's examples; what is missing is taken out of the training examples."""
    number, train = len(found["train"]), found["train"]
    tested = 0 if "test" in found else round(_SHARE * number)
    if validation is None:
        validation = 0 if "validation" in found else round(_SHARE * number)
    check_validation(spec.text, validation, number - tested)
    test, both = fixed_sample(number, tested), fixed_sample(number, tested + validation)
    parts = {"test": test, "validation": np.setdiff1d(both, test), "train": np.setdiff1d(np.arange(number), both)}
    return {
        part: (found[part], np.arange(len(found[part]))) if part in found and part != "train" else (train, chosen)
        for part, chosen in parts.items()
    }


def _in_memory(places: Mapping[str, tuple[Records, np.ndarray]], shape: tuple[int, int, int]) -> dict[str, Split]:
    read = {id(records): (records, *records.arrays(shape)) for records, _ in places.values()}
    splits = {}
    for part, (records, chosen) in places.items():
        _, images, labels = read[id(records)]
        prefix = part if len(chosen) == len(records) else "train"
        ids = [f"{prefix}-{place:05d}" for place in chosen]
        splits[part] = Split(part, images[chosen], labels[chosen, 0], ids, (), ())
    return splits


def _cut(
    info: DatasetInfo, chosen: Mapping[str, tuple[Records, np.ndarray]], crops: Crops, basis: list[str]
) -> Dataset:
    """Return images that are cut to one size: in memory where they fit, and nothing is to be cut from anew."""
    channels = info.image_shape[2]
    info = dataclasses.replace(info, image_shape=(*crops.size, channels))
    splits = {p: StreamedSplit(p, records, places, crops, channels, (), ()) for p, (records, places) in chosen.items()}
    if crops.resize is None and sum(map(len, splits.values())) * math.prod(info.image_shape) <= MOST_BYTES:
        return with_statistics(info, {part: split.in_memory() for part, split in splits.items()}, basis=basis)
    places = np.sort(np.concatenate([chosen[part][1] for part in basis]))
    info = dataclasses.replace(info, source=f"{info.source[:-1]}; read as needed)")
    return with_statistics(info, splits, sample=dataclasses.replace(splits["train"], places=places))


def load_imagenet(
    entry: Entry,
    data_dir: Path,
    source_dir: Path | None,
    log: Log,
    *,
    validation: int | None,
    image_size: Size,
    resize_size: int | None,
) -> Dataset:
    """Open ImageNet, preparing it first if its files are there.

    Training images are random resized crops, mirrored half of the time; validation and test images the centre of the
    image whose shorter side was resized. The validation examples are those of `fixed_sample`: the same ones for the
    same number, wherever the set is. A split that was not prepared is empty: 6 GB are enough to test on ImageNet.
    """
    height, width = as_size(image_size) or entry.image_shape[:2]
    resize = round(max(height, width) * 8 / 7) if resize_size is None else resize_size
    crops = Crops(size=(height, width), resize=resize, random=True, upright=False)
    path = check_imagenet(entry, data_dir, source_dir, log)
    (train, test), digests = _open(entry, path)
    record = prepared.read_record(path)
    origin = f"made from {record['source']}" if "source" in record else "not prepared by cnnjax"
    taken = (entry.validation if len(train) else 0) if validation is None else validation
    check_validation(entry.name, taken, len(train))
    held_out = fixed_sample(len(train), taken)
    chosen = {
        "train": (train, np.delete(np.arange(len(train)), held_out)),
        "validation": (train, held_out),
        "test": (test, np.arange(len(test))),
    }
    shape, classes = (height, width, entry.image_shape[2]), entry.class_names
    source = f"{path} ({origin}; read as needed; features and numbers of examples verified)"
    info = DatasetInfo(entry.name, len(classes), classes, shape, entry.mean, entry.std, source, digests)
    how = crops, shape[2], entry.mean, entry.std
    splits = {name: StreamedSplit(name, records, places, *how) for name, (records, places) in chosen.items()}
    return Dataset(**splits, info=info)


def check_imagenet(entry: Entry, data_dir: Path, source_dir: Path | None, log: Log) -> Path:
    """Return the folder of prepared ImageNet, once it can be opened."""
    path = prepared.directory(entry, data_dir)
    if not prepared.has_info(path):
        if source_dir is not None:
            return prepare_tars(entry, data_dir, source_dir, log)
        how = " ".join(source.instructions for source in entry.sources if isinstance(source, Manual))
        raise CnnjaxError(f"{entry.name} is not prepared in {data_dir}, and its licence lets nobody fetch it: {how}")
    prepared.check_format(path)
    _open(entry, path)
    return path


def _open(entry: Entry, path: Path) -> tuple[list[Records], dict[str, str]]:
    """Return ImageNet's training and test split and their digests, verified without reading images."""
    records, digests, number, classes = [], {}, 0, (len(entry.class_names),)
    with prepared.damage_named(path, entry.name):
        builder = prepared.builder_of(path)
        splits = builder.info.splits
        check_info(entry, path, builder.info.features, splits)
        for ours, theirs in (("train", "train"), ("test", entry.test_split)):
            files = prepared.files_of(builder, theirs) if theirs in splits else []
            digests[ours], number = prepared.digest_of(files), number + len(files)
            of_split = f"{path}: {ours}", classes, Columns(id="file_name")
            records.append(prepared.open_records(builder, theirs if files else None, *of_split))
    prepared.allow_open_files(number)
    return records, digests
