"""Datasets: three splits, in memory or streamed, and what is known about them."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnnjax.data.order import AnySplit
from cnnjax.data.resident import Size
from cnnjax.data.streamed import StreamedSplit
from cnnjax.errors import UsageError

# Of images as they are stored; what takes more is streamed.
MOST_BYTES = 4 * 2**30
_SAMPLE = 1000
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class DatasetInfo:
    """Say what a dataset is and where it came from.

    Args:
      name: As given to `load_dataset`.
      num_classes: Number of classes; labels are in `[0, num_classes)`.
      class_names: One name a class, in the order of the labels.
      image_shape: `(H, W, C)` as stored, before any resizing.
      mean: Per channel, of the training images scaled to [0, 1]; validation examples included, so that it does not
        depend on how many are taken out. The test set plays no part.
      std: The same for the standard deviation; 1 for a channel that never changes.
      source: One line: where the data came from.
      digests: sha256 of the content of `"train"` (validation included) and `"test"`, whatever the order; of a TFDS set
        that is not `available()`, or streamed, of its files' names and sizes.
      files: Of a folder, the image files of each split; else None.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    digests: Mapping[str, str]
    files: Mapping[str, Sequence[str]] | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Hold the three splits of a dataset and what is known about it.

    Args:
      train: What is trained on.
      validation: Examples taken out of the training set; may be empty.
      test: Examples that no decision may depend on.
      info: Names, shapes, statistics, source.
    """

    train: AnySplit
    validation: AnySplit
    test: AnySplit
    info: DatasetInfo

    def __repr__(self) -> str:
        splits = "".join(f"\n  {name}={getattr(self, name)!r}" for name in SPLITS)
        return f"Dataset({self.info.name!r}, {self.info.num_classes:,} classes){splits}"

    def resized(self, image_size: Size, resize_size: int | None = None) -> "Dataset":
        """Return the dataset with each split's `resized(image_size, resize_size)`."""
        splits = {name: getattr(self, name).resized(image_size, resize_size) for name in SPLITS}
        return dataclasses.replace(self, **splits)


def with_statistics(
    info: DatasetInfo, splits: Mapping[str, Any], *, basis: Sequence[str] = (), sample: StreamedSplit | None = None
) -> Dataset:
    """Return the dataset, its mean and deviation worked out.

    Args:
      info: All else that is known.
      splits: The three splits, by name.
      basis: Those made of training images, in memory, whose statistics count.
      sample: Training images to be read instead; the first 1,000 are enough for three digits.
    """
    if sample is not None:
        basis_images = [dataclasses.replace(sample, places=sample.places[:_SAMPLE]).in_memory().images]
    else:
        basis_images = [splits[name].images for name in basis]
    mean, std = statistics(*basis_images)
    held = {name: dataclasses.replace(split, mean=mean, std=std) for name, split in splits.items()}
    return Dataset(**held, info=dataclasses.replace(info, mean=mean, std=std))


def statistics(*arrays: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of images scaled to [0, 1], from exact integer sums."""
    channels = arrays[0].shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    chunks = (np.array_split(images, max(1, images.size // 2**22)) for images in arrays)
    for chunk in itertools.chain.from_iterable(chunks):  # bincount makes 8 bytes of each
        for channel in range(channels):
            counts[channel] += np.bincount(chunk[..., channel].ravel(), minlength=256)
    means, deviations = [], []
    for count in counts.tolist():
        number = sum(count)
        first = sum(value * times for value, times in enumerate(count))
        second = sum(value * value * times for value, times in enumerate(count))
        variance = (number * second - first * first) / number**2  # exact above the line
        means.append(first / number / 255)
        deviations.append(variance**0.5 / 255 or 1.0)
    return tuple(means), tuple(deviations)


def check_validation(name: str, number: int, training: int) -> None:
    """Raise UsageError unless that many examples can be put aside for validation."""
    if not 0 <= number < max(training, 1):
        raise UsageError(
            f"validation: expected 0 to {max(training - 1, 0)} examples of {name}'s {training} training examples, "
            f"got {number}."
        )
