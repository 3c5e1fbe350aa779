"""ImageNet: what it is, the constants that go with it, and how a person gets it."""

import functools
import importlib.util
from pathlib import Path

from cnnjax.data.entry import Entry
from cnnjax.data.sources import Manual, RemoteFile
from cnnjax.errors import CnnjaxError

# Of a sample of the training images; torchvision's, https://docs.pytorch.org/vision/stable/models.html, and since then
# everybody's. How they were found: https://github.com/pytorch/vision/issues/1439.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# By TFDS's split; sizes and sha256 are TFDS's.
FILES = {
    "train": RemoteFile(
        "ILSVRC2012_img_train.tar", 147897477120, "b08200a27a8e34218a0e58fde36b0fe8f73bc377f4acea2d91602057c3ca45bb"
    ),
    "validation": RemoteFile(
        "ILSVRC2012_img_val.tar", 6744924160, "c7e06a6c0baccf06d8dbeb6577d71efff84673a5dbdd50633ab44f8ea0456ae0"
    ),
}


def entry() -> Entry:
    """Return what ImageNet is: ILSVRC 2012 as TFDS prepares it."""
    return Entry(
        name="imagenet2012",
        version="5.1.0",
        older_versions=("5.0.0",),
        description="1.3 million photographs in 1,000 classes, ILSVRC 2012; tested on its validation set.",
        homepage="https://image-net.org/",
        image_shape=(224, 224, 3),
        class_names=_synsets(),
        counts={"train": 1281167, "test": 50000},
        digests=None,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        validation=10000,
        layouts=(),
        sources=(
            Manual(
                "manual download from https://image-net.org/download-images, after registering",
                "register at https://image-net.org/download-images (research and teaching only), put "
                f"{FILES['train'].name} (138 GiB) and {FILES['validation'].name} (6 GiB, enough to test on) into a "
                "folder and name it: cnnjax data prepare imagenet2012 --source-dir FOLDER",
            ),
        ),
        test_split="validation",
        streamed=True,
    )


@functools.cache
def _synsets() -> tuple[str, ...]:
    """Return the classes' WordNet numbers in TFDS's order."""
    return _tfds_lines("labels.txt")


def validation_labels() -> tuple[str, ...]:
    """Return the classes of the validation images in the order of their files' names."""
    return _tfds_lines("validation_labels.txt")


def _tfds_lines(name: str) -> tuple[str, ...]:
    """Return a list that comes with TFDS; it is found without importing TFDS."""
    spec = importlib.util.find_spec("tensorflow_datasets")
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(folders[0] if folders else "") / "datasets" / "imagenet2012" / name
    try:
        return tuple(path.read_text(encoding="utf-8").split())
    except OSError as error:
        raise CnnjaxError(f"{path}: cannot be read ({error.strerror}). Install tensorflow-datasets anew.") from error
