"""The dataset that comes with the package: 1,797 real handwritten digits, no download at all."""

from importlib import resources

import numpy as np

from cnnjax.data import png
from cnnjax.data.content import Examples
from cnnjax.errors import CnnjaxError

_COUNT = 1797


def digits() -> dict[str, Examples]:
    """Return scikit-learn's digits, 8 by 8 pixels, in 1,442 training and 355 test examples.

    The split is fixed: within each class, in the source's order, every fifth example is a test example. (Every fifth
    of all would not do: the source goes through the digits in turn.)
    """
    folder = resources.files("cnnjax.data") / "digits"
    try:
        images = png.decode([(folder / "digits.png").read_bytes()], (_COUNT, 64, 1)).reshape(_COUNT, 8, 8, 1)
        text = "".join((folder / "labels.txt").read_text(encoding="ascii").split())
        labels = np.array([int(letter) for letter in text], np.int32)
    except (OSError, ValueError) as error:
        raise CnnjaxError(f"{folder}: damaged, install cnnjax again ({error}).") from error
    if len(labels) != _COUNT:
        raise CnnjaxError(
            f"{folder / 'labels.txt'}: expected {_COUNT} labels, got {len(labels)}. Install cnnjax again."
        )
    rank = np.zeros(_COUNT, int)  # how many of its class came before each example
    for label in range(10):
        rank[labels == label] = np.arange(np.sum(labels == label))
    everything = Examples(images, labels)
    return {"train": everything.take(rank % 5 != 4), "test": everything.take(rank % 5 == 4)}
