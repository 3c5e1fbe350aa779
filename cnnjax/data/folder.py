"""A user's own images: one folder a class, in memory if they fit there and streamed if not."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cnnjax.data.crops import Crops
from cnnjax.data.dataset import MOST_BYTES, SPLITS, Dataset, DatasetInfo, check_validation, with_statistics
from cnnjax.data.folder_layout import File, describe, digest, divide, list_files, missing, scan
from cnnjax.data.pixels import PixelRange
from cnnjax.data.resident import Size, as_size
from cnnjax.data.streamed import Encoded, StreamedSplit
from cnnjax.errors import UsageError

_SPEC = "folder:DIR or folder:DIR?OPTIONS with the options test=FRACTION and crop=random, such as ?test=0.2,crop=random"


def load_folder(
    directory: str | Path,
    *,
    test_fraction: float | None = None,
    validation: int | None = None,
    image_size: Size = None,
    channels: int | None = None,
    random_crop: bool = False,
    resize_size: int | None = None,
    pixel_range: PixelRange | None = None,
    choose_size: Callable[[], Size] | None = None,
    log: Callable[[str], None] | None = None,
) -> Dataset:
    """Read images that lie in one folder a class.

    Either `DIR/train/CLASS/*`, with `DIR/test/CLASS/*` and `DIR/validation/CLASS/*` (or `val`, `valid`, `training`) if
    there are any, or `DIR/CLASS/*`. What has no folder of its own is taken out of the training images, 15 % for testing
    and 15 % for validation, by the files' bytes alone: an image stays on its side whatever is added, wherever the
    folder is and however images are cut. An image that is on two sides is kept for testing, or else for validation.

    Images that take more than 4 GiB, as their headers say before any is decoded, are streamed: read and cut anew each
    epoch to the same pixels that they would have in memory. The training images' mean and deviation are then those of
    1,000 of them.

    Args:
      directory: The top folder. Hidden files are left out; everything else in a class's folder must be an image.
      test_fraction: Part that becomes the test set, above 0 and below 1; only where there is no folder of it.
      validation: How many examples to take out of the training set, of each class its part; None for 15 %, or for none
        where there is a folder of them.
      image_size: Size of the images; needed where they differ in size. They are then cut to its proportions and
        resized as by `load_image`; images all alike that are to be enlarged are enlarged inside jit instead.
      channels: 1 or 3; None for 1 where all files are grey, else 3.
      random_crop: Whether training images are random parts, resized, and mirrored half of the time, as for ImageNet,
        see `crops.random_box`; then images are streamed, however few they are.
      resize_size: For streamed images, pixels of the shorter side from whose centre evaluation images are cut; None
        for 8/7 of `image_size` with `random_crop`, and without it for the largest centred part.
      pixel_range: What black and white are stored as in pixels deeper than 8 bits; None for what the files say.
      choose_size: Called for an image size where none is given and the images differ in size.
      log: Called with lines about the splits and what is odd; None to say nothing.
    Returns:
      The dataset; classes are the folders' names, sorted; ids are the files' paths from the top folder. A split to
      which no image falls is empty.
    Raises:
      UsageError: If the folders are not as described or the numbers do not fit.
      CnnjaxError: If a file is no readable image; the message names it.
    """
    top, name, size = Path(directory).expanduser(), f"folder:{directory}", as_size(image_size)
    if channels not in (None, 1, 3):
        raise UsageError(f"channels: expected 1 or 3, got {channels}.")
    if test_fraction is not None and not 0 < test_fraction < 1:
        raise UsageError(f"{top}: the fraction for testing must lie between 0 and 1, got {test_fraction}.")
    names, listed = list_files(top)
    for part, given in (("test", test_fraction), ("validation", validation)):
        if part in listed and given is not None:
            raise UsageError(f"{top}: has a {part} folder of its own, so no part for {part} can be stated.")
    scanned = scan(top, listed)
    parts, notes = divide(scanned, test_fraction, validation)
    if validation is not None:
        check_validation(name, validation, len(parts["train"]) + len(parts["validation"]))
    if not parts["train"]:
        raise UsageError(f"{top}: no image is left to train on. {' '.join(notes)}".rstrip())
    for line in [describe(listed, names, parts), *notes, *missing(names, parts)]:
        (log or (lambda line: None))(f"{name}: {line}")
    files = [f for part in SPLITS if part in scanned for f in sorted(scanned[part], key=lambda file: file.path)]
    shape, enlarged = _shape(top, files, size, channels, choose_size)
    streamed = random_crop or len(files) * math.prod(shape) > MOST_BYTES
    if not streamed and resize_size is not None:
        raise UsageError(f"resize size: {top} is kept in memory at one size, so there is nothing to cut from.")
    shape = (*enlarged, shape[2]) if enlarged and streamed else shape
    resize = round(max(shape[:2]) * 8 / 7) if random_crop and resize_size is None else resize_size
    crops = Crops(size=shape[:2], resize=resize, random=random_crop, pixel_range=pixel_range)
    basis = ["train"] if "validation" in listed else ["train", "validation"]
    trained = sorted((file for part in basis for file in parts[part]), key=lambda file: file.digest)
    source = f"{len(files):,} image files in {top}{', read as needed' if streamed else ''}"
    digests = {"train": digest(trained, names), "test": digest(parts["test"], names)}
    sides = {part: [file.path for file in parts[part]] for part in SPLITS}
    info = DatasetInfo(name, len(names), tuple(names), shape, (), (), source, digests, sides)
    splits = {part: _split(part, top, parts[part], crops, shape[2]) for part in SPLITS}
    if streamed:
        return with_statistics(info, splits, sample=_split("train", top, trained, crops, shape[2]))
    held = {part: split.in_memory() for part, split in splits.items()}
    return with_statistics(info, held, basis=basis).resized(enlarged)


def _split(name: str, top: Path, files: Sequence[File], crops: Crops, channels: int) -> StreamedSplit:
    source = ImageFiles(top, [(file.path, file.label) for file in files])
    return StreamedSplit(name, source, np.arange(len(files)), crops, channels, (), ())


def load_folder_spec(
    text: str,
    *,
    validation: int | None,
    image_size: Size,
    resize_size: int | None = None,
    pixel_range: PixelRange | None = None,
    choose_size: Callable[[], Size] | None = None,
    log: Callable[[str], None] | None = None,
) -> Dataset:
    """Read what `folder:DIR`, `folder:DIR?test=FRACTION` or `folder:DIR?test=FRACTION,crop=random` names."""
    path, fraction, random_crop = text.removeprefix("folder:"), None, False
    if "?" in path and not Path(path).is_dir():
        path, _, options = path.rpartition("?")
        for option in options.split(","):
            key, _, value = option.partition("=")
            try:
                if (key, value) == ("crop", "random"):
                    random_crop = True
                elif key == "test":
                    fraction = float(value)
                else:
                    raise ValueError(option)
            except ValueError as error:
                raise UsageError(f"dataset {text!r}: expected {_SPEC}.") from error
    if not path:
        raise UsageError(f"dataset {text!r}: expected a folder after the colon.")
    return load_folder(
        path,
        test_fraction=fraction,
        validation=validation,
        image_size=image_size,
        random_crop=random_crop,
        resize_size=resize_size,
        pixel_range=pixel_range,
        choose_size=choose_size,
        log=log,
    )


def _shape(
    top: Path,
    files: Sequence[File],
    size: tuple[int, int] | None,
    channels: int | None,
    choose_size: Callable[[], Size] | None,
) -> tuple[tuple[int, int, int], tuple[int, int] | None]:
    """Return the shape to store images in, and the size that they are enlarged to, if any."""
    depth = channels or (1 if all(file.grey for file in files) else 3)
    stored, other = files[0], next((file for file in files if file.size != files[0].size), None)
    if other is not None and size is None:
        size = as_size(choose_size() if choose_size else None)
    if other is not None and size is None:
        named = " and ".join(f"{file.path} is {file.size[1]}×{file.size[0]}" for file in (stored, other))
        raise UsageError(
            f"{top}: images differ in size ({named.replace(' and ', ', ')}): state an image size (--image-size)."
        )
    enlarge = size is not None and other is None and stored.size[0] <= size[0] and stored.size[1] <= size[1]
    height, width = stored.size if size is None or enlarge else size
    return (height, width, depth), size if enlarge else None


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFiles:
    """The image files of a folder, by their paths from its top and their classes, read as needed."""

    top: Path
    files: Sequence[tuple[str, int]]

    def __len__(self) -> int:
        return len(self.files)

    def fetch(self, place: int) -> Encoded:
        """Return the example at a place; its file is read when it is decoded."""
        path, label = self.files[place]
        return Encoded(self.top / path, None, label, path)
