"""A user's own images that do not fit in memory, or of which each epoch sees other parts."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnnjax.data.content import statistics
from cnnjax.data.crops import Crops, evaluation_image
from cnnjax.data.entry import check_validation
from cnnjax.data.folder_files import File, choose_testing, in_threads
from cnnjax.data.resident import Dataset, DatasetInfo
from cnnjax.data.streamed import Encoded, StreamedSplit

# Images from which mean and deviation are worked out: enough for three digits.
_SAMPLE = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFiles:
    """Give the image files of a folder.

    Args:
      top: The top folder.
      files: Paths from there, and classes.
    """

    top: Path
    files: Sequence[File]

    def __len__(self) -> int:
        return len(self.files)

    def fetch(self, place: int) -> Encoded:
        """Return the example at a place; its file is read when it is decoded."""
        path, label = self.files[place]
        return Encoded(self.top / path, None, label, path)


def stream_folder(
    name: str,
    top: Path,
    names: Sequence[str],
    listed: dict[str, list[File]],
    crops: Crops,
    channels: int,
    test_fraction: float | None,
    validation: int | None,
) -> Dataset:
    """Return a folder of images as a dataset that is read as needed.

    Files are put in the order of their paths' sha256, which looks random and never changes; the first ones of each
    class, or of the training set, are those for testing, or validation.

    Args:
      name: The dataset's.
      top: The top folder.
      names: The classes.
      listed: What `list_files` returned.
      crops: How images are cut.
      channels: 1 or 3.
      test_fraction: See `load_folder`.
      validation: See `load_folder`.
    Raises:
      UsageError: If the numbers do not fit.
      CnnjaxError: If a file of the sample for the statistics is no readable image.
    """
    parts = {part: sorted(files, key=lambda file: _sha256(file[0])) for part, files in listed.items()}
    if test_fraction is not None:
        everything = parts["all"]
        labels = np.array([label for _, label in everything], np.int32)
        testing = choose_testing(top, labels, names, test_fraction).tolist()
        parts = {
            "train": [file for file, chosen in zip(everything, testing) if not chosen],
            "test": [file for file, chosen in zip(everything, testing) if chosen],
        }
    train, test, own = parts["train"], parts["test"], parts.get("validation")
    taken = validation if validation is not None else 0 if own is not None else round(len(train) / 10)
    check_validation(name, taken, len(train))
    sample = in_threads(lambda file: evaluation_image(top / file[0], None, crops, channels), train[:_SAMPLE])
    mean, std = statistics(np.stack(sample))

    def split(part: str, files: Sequence[File]) -> StreamedSplit:
        return StreamedSplit(part, ImageFiles(top, files), np.arange(len(files)), crops, channels, mean, std)

    number = sum(map(len, listed.values()))
    info = DatasetInfo(
        name=name,
        num_classes=len(names),
        class_names=tuple(names),
        image_shape=(*crops.size, channels),
        mean=mean,
        std=std,
        source=f"{number:,} image files in {top}, read as needed",
        digests={"train": _digest(top, train), "test": _digest(top, test)},
    )
    return Dataset(
        train=split("train", train[taken:]),
        validation=split("validation", train[:taken] if own is None else own),
        test=split("test", test),
        info=info,
    )


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()


def _digest(top: Path, files: Sequence[File]) -> str:
    """Return the sha256 of the files' paths and sizes: content of this size is not read twice."""
    sizes = in_threads(lambda file: (top / file[0]).stat().st_size, files)
    lines = sorted(f"{path}\0{size}\n" for (path, _), size in zip(files, sizes))
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
