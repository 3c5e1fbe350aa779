"""Arrays of a user's own as a dataset: checked, and divided as folders are."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnnjax.data.dataset import SPLITS, Dataset, DatasetInfo, with_statistics
from cnnjax.data.folder_layout import File, divide
from cnnjax.data.formats import Examples, canonical
from cnnjax.data.images import quiet, read_image, upright_size
from cnnjax.data.pixels import GREY_MODES
from cnnjax.data.resident import Split
from cnnjax.errors import CnnjaxError, UsageError


def from_arrays(
    images: Any,
    labels: Any,
    *,
    test: float | tuple[Any, Any] | None = None,
    validation: int | None = None,
    class_names: Sequence[str] | None = None,
    name: str = "arrays",
) -> Dataset:
    """Return a dataset of images and labels that are in memory.

    What is for testing and for validation follows from the images' bytes alone, as in `load_folder`: it does not change
    with a seed or when images are added, and each class gives about the same part.

    Args:
      images: NumPy or JAX array `[N, H, W, C]` or `[N, H, W]`, C 1 or 3, uint8 or float in [0, 1]; or images of
        Pillow's, all of one size.
      labels: Whole numbers of any type, `[N]`, from 0 on.
      test: Images and labels for testing, or the part that is put aside, above 0 and below 1; None for 15 %.
      validation: How many images to put aside for validation, of each class its part; None for 15 %.
      class_names: One name a class; None for numbers.
      name: What to call it.
    Returns:
      The dataset; ids are the images' places, such as `train-00042`.
    Raises:
      UsageError: If images and labels are of other kinds or do not fit together; the message says what to do.
    Example:
      >>> from_arrays(np.zeros((40, 8, 8), np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None], [0, 1] * 20)
      Dataset('arrays', 2 classes)
        train=Split('train', 33 images 8×8×1)
        validation=Split('validation', 3 images 8×8×1)
        test=Split('test', 4 images 8×8×1)
    """
    pixels, numbers = _images(images), _labels(labels)
    _check_lengths(pixels, numbers)
    own, fraction = None, None
    if isinstance(test, list | tuple):
        if len(test) != 2:
            raise UsageError(f"test: expected two, images and labels, got {len(test)}. Write test=(images, labels).")
        own = _images(test[0]), _labels(test[1])
        _check_lengths(*own)
        if own[0].shape[1:] != pixels.shape[1:]:
            raise UsageError(f"test: expected images {pixels.shape[1:]} as those to train on, got {own[0].shape[1:]}.")
    elif test is not None and not 0 < (fraction := test) < 1:
        raise UsageError(f"test: expected a part above 0 and below 1, or images and labels, got {test}.")
    highest = max(int(numbers.max()), int(own[1].max()) if own else 0)
    names = tuple(map(str, range(highest + 1))) if class_names is None else tuple(class_names)
    if highest >= len(names):
        raise UsageError(f"labels reach {highest}; class_names has {len(names)} names. Give one name a class.")
    if validation is not None and not 0 <= validation < len(pixels):
        raise UsageError(f"validation: expected 0 to {len(pixels) - 1} examples, got {validation}.")
    digests = [hashlib.sha256(image.tobytes()).digest() for image in pixels]
    files = [File(str(n), int(label), digest, (0, 0), False) for n, (label, digest) in enumerate(zip(numbers, digests))]
    files.sort(key=lambda file: file.digest)
    divided, _ = divide({"train": files, **({"test": []} if own else {})}, fraction, validation)
    places = {part: np.array(sorted(int(file.path) for file in some), int) for part, some in divided.items()}
    if (not own and not len(places["test"])) or not len(places["train"]):
        raise UsageError(f"{len(pixels)} images are too few to put some aside: give test=(images, labels).")

    def split(part: str) -> Split:
        source, chosen, prefix = ((pixels, numbers), places[part], "train")
        if own and part == "test":
            source, chosen, prefix = own, np.arange(len(own[0])), "test"
        ids = [f"{prefix}-{place:05d}" for place in chosen]
        return Split(part, source[0][chosen], source[1][chosen], ids, (), ())

    splits = {part: split(part) for part in SPLITS}
    digests = {"train": _digest(splits["train"], splits["validation"]), "test": _digest(splits["test"])}
    source = f"{len(pixels) + (len(own[0]) if own else 0):,} images in memory"
    info = DatasetInfo(name, len(names), names, pixels.shape[1:], (), (), source, digests)
    return with_statistics(info, splits, basis=["train", "validation"])


def _images(images: Any) -> np.ndarray:
    pictures = [hasattr(image, "getbands") for image in images] if isinstance(images, list | tuple) else []
    if any(pictures):
        if not all(pictures):
            raise UsageError("images: expected images of Pillow's or arrays, got both. Take np.asarray of the former.")
        images = _pictures(images)
    elif isinstance(images, list | tuple) and len(shapes := sorted({np.shape(image) for image in images})) > 1:
        raise UsageError(
            f"images: expected one size, got {len(shapes)}, such as {shapes[0]} and {shapes[1]}. Resize them."
        )
    found = np.asarray(images)
    found = found[..., None] if found.ndim == 3 else found
    if found.ndim != 4 or found.shape[-1] not in (1, 3) or not len(found):
        fix = " Move the channels last: images.transpose(0, 2, 3, 1)." if found.ndim == 4 else ""
        raise UsageError(f"images: expected [N, H, W, C] with 1 or 3 channels, got {found.shape}.{fix}")
    if found.dtype == np.uint8:
        return found.copy()
    values = found.astype(np.float32) if found.dtype.kind not in "biu" else np.array(np.nan)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise UsageError(
            f"images: expected uint8, or floats in [0, 1], got {found.dtype} from {found.min()} to {found.max()}. "
            "Scale them: (images - low) / (high - low), the same for all; or images.astype('uint8') of pixels 0 to 255."
        )
    return np.round(values * 255).astype(np.uint8)


def _pictures(images: Sequence[Any]) -> list[np.ndarray]:
    """Return images of Pillow's in 8 bits, decoded as those of folders are."""
    sizes = {upright_size(image) for image in images}
    if len(sizes) > 1:
        some = [(width, height) for height, width in sorted(sizes)[:2]]
        raise UsageError(f"images: expected one size, got {len(sizes)}, such as {some}. Resize them.")
    shape = (*sizes.pop(), 1 if all(image.mode in GREY_MODES for image in images) else 3)
    try:
        with quiet():
            return [read_image(image, shape)[0] for image in images]
    except CnnjaxError as error:
        said = str(error).partition(" State it:")[0]  # what a file's reader is told: here arrays say it
        raise UsageError(f"images: {said} Give arrays of uint8, or of floats in [0, 1].") from error


def _labels(labels: Any) -> np.ndarray:
    found = np.asarray(labels)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        fix = "Take labels.argmax(axis=-1) of one-hot ones." if found.ndim == 2 else "Number the classes from 0 on."
        raise UsageError(f"labels: expected whole numbers [N], got {found.dtype} {found.shape}. {fix}")
    if len(found) and found.min() < 0:
        raise UsageError(f"labels: expected numbers from 0 on, got {found.min()}.")
    return found.astype(np.int32)


def _check_lengths(images: np.ndarray, labels: np.ndarray) -> None:
    if len(images) != len(labels):
        raise UsageError(f"expected as many labels as images, got {len(labels)} labels and {len(images)} images.")


def _digest(*splits: Split) -> str:
    images, labels = (np.concatenate([getattr(split, name) for split in splits]) for name in ("images", "labels"))
    return canonical(Examples(images, labels))[1]
