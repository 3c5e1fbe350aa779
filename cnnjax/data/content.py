"""What a split holds, told apart from where it came from: its digest, its one order, its statistics."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Hold the decoded examples of one split.

    Args:
      images: uint8, `[N, H, W, C]`.
      labels: int32, `[N]`.
      coarse: int32, `[N]`, labels of the superclasses, where the dataset has them.
      ids: One text an example, where its place in the source says something; else None.
    """

    images: np.ndarray
    labels: np.ndarray
    coarse: np.ndarray | None = None
    ids: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: Sequence[int] | np.ndarray | slice) -> "Examples":
        """Return the examples at those places, in that order."""
        places = np.arange(len(self))[index]
        coarse = None if self.coarse is None else self.coarse[places]
        ids = None if self.ids is None else [self.ids[int(place)] for place in places]
        return Examples(self.images[places], self.labels[places], coarse, ids)


def example_digests(examples: Examples) -> list[bytes]:
    """Return the sha256 of each example: its image's bytes, then its labels, each as 8 bytes, low byte first."""
    columns = [examples.labels] if examples.coarse is None else [examples.labels, examples.coarse]
    labels = np.stack(columns, axis=1).astype("<i8").view(np.uint8)
    rows = examples.images.reshape(len(examples), -1)
    return [hashlib.sha256(row.tobytes() + label.tobytes()).digest() for row, label in zip(rows, labels)]


def canonical(examples: Examples) -> tuple[Examples, str]:
    """Return the examples sorted by their digests, and the digest of them all.

    Sources differ in the order of their files and writers shuffle; after this, equal content is equal arrays. The
    order looks random but never changes, so its first n examples are a fixed random sample.
    """
    if not len(examples):
        return examples, hashlib.sha256().hexdigest()
    digests = example_digests(examples)
    ids = examples.ids if examples.ids is not None else [""] * len(examples)
    order = sorted(range(len(examples)), key=lambda place: (digests[place], ids[place]))
    total = hashlib.sha256(b"".join(digests[place] for place in order)).hexdigest()
    return examples.take(order), total


def statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of images scaled to [0, 1], from exact integer sums."""
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for chunk in np.array_split(images, max(1, images.size // 2**22)):  # bincount makes 8 bytes of each
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
