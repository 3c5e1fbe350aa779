"""Datasets: verified sources, TFDS directories read without TensorFlow, folders of images, batches made inside jit.

Importing this loads neither TFDS nor Pillow; they are loaded when first needed.
"""

from cnnjax.batch import Batch
from cnnjax.data.arrays import from_arrays
from cnnjax.data.crops import Crops
from cnnjax.data.dataset import Dataset, DatasetInfo
from cnnjax.data.folder import load_folder
from cnnjax.data.images import load_image, looks_inverted
from cnnjax.data.load import describe_sources, load_dataset, prepare, resolve
from cnnjax.data.named_sets import available
from cnnjax.data.order import batches, epoch_range
from cnnjax.data.resident import Split, prepare_images
from cnnjax.data.streamed import StreamedSplit

__all__ = [
    "Batch",
    "Crops",
    "Dataset",
    "DatasetInfo",
    "Split",
    "StreamedSplit",
    "available",
    "batches",
    "describe_sources",
    "epoch_range",
    "from_arrays",
    "load_dataset",
    "load_folder",
    "load_image",
    "looks_inverted",
    "prepare",
    "prepare_images",
    "resolve",
]


def __dir__() -> list[str]:
    return __all__
