"""A user's own images: one folder a class, in memory if they fit there and streamed if not."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnnjax.data.content import Examples, canonical, statistics
from cnnjax.data.crops import Crops
from cnnjax.data.folder_files import File, choose_testing, in_threads, list_files
from cnnjax.data.folder_stream import stream_folder
from cnnjax.data.images import read_image, size_and_kind
from cnnjax.data.load import make_dataset
from cnnjax.data.resident import Dataset, DatasetInfo, Size, as_size
from cnnjax.errors import UsageError

# Of images as they are stored; beyond that they are streamed.
_MOST_BYTES = 4 * 2**30
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
) -> Dataset:
    """Read images that lie in one folder a class.

    Either `DIR/train/CLASS/*` and `DIR/test/CLASS/*`, with `DIR/validation/CLASS/*` or `DIR/val/CLASS/*` if there is
    one, or `DIR/CLASS/*` and the fraction of each class that is to be the test set. That part is drawn by the images'
    content: it stays the same wherever the folder is, and adding an image moves at most one other image of its class.

    Images that take more than 4 GiB, as their headers say before any is decoded, are streamed: read and cut anew each
    epoch to the same pixels that they would have in memory. Their order, and what is put aside for testing and
    validation, then follow from their paths instead of their content, and the training images' mean and deviation
    from a sample of 1,000.

    Args:
      directory: The top folder. Hidden files are left out; everything else in a class's folder must be an image.
      test_fraction: Part of each class that becomes the test set, above 0 and below 1; only for `DIR/CLASS/*`.
      validation: How many examples to take out of the training set; None for a tenth, or for none where there is a
        folder of them.
      image_size: Size of the images; needed where they differ in size. They are then cut to its proportions and
        resized as by `load_image`; images all alike that are to be enlarged are enlarged inside jit instead.
      channels: 1 or 3; None for 1 where all files are grey, else 3.
      random_crop: Whether training images are random parts, resized, and mirrored half of the time, as for ImageNet,
        see `crops.random_box`; then images are streamed, however few they are.
      resize_size: For streamed images, pixels of the shorter side from whose centre evaluation images are cut; None
        for 8/7 of `image_size` with `random_crop`, and without it for the largest centred part.
    Returns:
      The dataset; classes are the folders' names, sorted; ids are the files' paths from the top folder.
    Raises:
      UsageError: If the folders are not as described or the numbers do not fit.
      CnnjaxError: If a file is no readable image; the message names it.
    """
    top, size = Path(directory).expanduser(), as_size(image_size)
    if channels not in (None, 1, 3):
        raise UsageError(f"channels: expected 1 or 3, got {channels}.")
    names, listed = list_files(top, test_fraction)
    if "validation" in listed and validation is not None:
        raise UsageError(f"{top}: has a validation folder of its own, so no number for validation can be stated.")
    files = [file for part in listed.values() for file in part]
    shape, enlarged = _shape(top, files, size, channels)
    name = f"folder:{directory}"
    if random_crop or len(files) * shape[0] * shape[1] * shape[2] > _MOST_BYTES:
        height, width = enlarged or shape[:2]
        resize = round(max(height, width) * 8 / 7) if random_crop and resize_size is None else resize_size
        crops = Crops(size=(height, width), resize=resize, random=random_crop)
        return stream_folder(name, top, names, listed, crops, shape[2], test_fraction, validation)
    if resize_size is not None:
        raise UsageError(f"resize size: {top} is kept in memory at one size, so there is nothing to cut from.")
    return _in_memory(name, top, names, listed, shape, enlarged, test_fraction, validation)


def load_folder_spec(text: str, *, validation: int | None, image_size: Size, resize_size: int | None = None) -> Dataset:
    """Read what `folder:DIR`, `folder:DIR?test=FRACTION` or `folder:DIR?test=FRACTION,crop=random` names.

    Args:
      text: As the user wrote it.
      validation: See `load_folder`.
      image_size: See `load_folder`.
      resize_size: See `load_folder`.
    Raises:
      UsageError: If the text means nothing.
    """
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
    )


def _in_memory(
    name: str,
    top: Path,
    names: Sequence[str],
    listed: dict[str, list[File]],
    shape: tuple[int, int, int],
    size: tuple[int, int] | None,
    test_fraction: float | None,
    validation: int | None,
) -> Dataset:
    files = [file for part in listed.values() for file in part]
    labels = np.array([label for _, label in files], np.int32)
    everything = Examples(_read_all(top, files, shape), labels, ids=[path for path, _ in files])
    ends = np.cumsum([len(listed.get(part, [])) for part in ("train", "test", "validation")])
    if test_fraction is not None:
        everything = canonical(everything)[0]
        testing = choose_testing(top, everything.labels, names, test_fraction)
        train, test = everything.take(~testing), everything.take(testing)
    else:
        train, test = everything.take(slice(0, ends[0])), everything.take(slice(ends[0], ends[1]))
    (train, train_digest), (test, test_digest) = canonical(train), canonical(test)
    mean, std = statistics(train.images)
    digests = {"train": train_digest, "test": test_digest}
    source = f"{len(files):,} image files in {top}"
    info = DatasetInfo(name, len(names), tuple(names), shape, mean, std, source, digests)
    if "validation" in listed:
        own = canonical(everything.take(slice(ends[1], ends[2])))[0]
        return make_dataset(train, test, info, 0, size, own)
    taken = round(len(train) / 10) if validation is None else validation
    return make_dataset(train, test, info, taken, size)


def _shape(
    top: Path, files: Sequence[File], size: tuple[int, int] | None, channels: int | None
) -> tuple[tuple[int, int, int], tuple[int, int] | None]:
    """Return the shape to store images in, and the size that they are enlarged to, if any."""
    headers = in_threads(lambda file: size_and_kind(top / file[0]), files)
    depth = channels or (1 if all(grey for _, grey in headers) else 3)
    stored, alike = headers[0][0], True
    for (path, _), (this, _) in zip(files, headers):
        if this == stored:
            continue
        if size is None:
            first, other = (f"{width}×{height}" for height, width in (stored, this))
            raise UsageError(
                f"{top}: images differ in size ({files[0][0]} is {first}, {path} is {other}): "
                "state an image size (--image-size)."
            )
        alike = False
    enlarge = size is not None and alike and stored[0] <= size[0] and stored[1] <= size[1]
    height, width = stored if size is None or enlarge else size
    return (height, width, depth), size if enlarge else None


def _read_all(top: Path, files: Sequence[File], shape: tuple[int, int, int]) -> np.ndarray:
    images = np.empty((len(files), *shape), np.uint8)

    def read(place: int) -> None:
        images[place] = read_image(top / files[place][0], shape)[0]

    in_threads(read, range(len(files)))
    return images
