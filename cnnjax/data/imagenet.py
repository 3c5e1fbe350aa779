"""ImageNet: what it is, the constants that go with it, and how a person gets it."""

import functools
import importlib.util
from pathlib import Path

from cnnjax.data.entry import Entry
from cnnjax.data.sources import Manual
from cnnjax.errors import CnnjaxError

# Of a sample of the training images; torchvision's, https://docs.pytorch.org/vision/stable/models.html, and since then
# everybody's. How they were found: https://github.com/pytorch/vision/issues/1439.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


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
                "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into ~/tensorflow_datasets/downloads/manual, and "
                "where tensorflow is installed run: tfds build imagenet2012 --file_format=array_record",
            ),
        ),
        test_split="validation",
        streamed=True,
    )


@functools.cache
def _synsets() -> tuple[str, ...]:
    """Return the classes' WordNet numbers in TFDS's order, from TFDS's list; it is found without importing TFDS."""
    spec = importlib.util.find_spec("tensorflow_datasets")
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(folders[0] if folders else "") / "datasets" / "imagenet2012" / "labels.txt"
    try:
        return tuple(path.read_text(encoding="utf-8").split())
    except OSError as error:
        raise CnnjaxError(f"{path}: cannot be read ({error.strerror}). Install tensorflow-datasets anew.") from error
