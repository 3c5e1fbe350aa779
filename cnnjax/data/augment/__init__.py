"""Augmentations: pure functions of a batch and a key, run inside the jitted step.

Each example draws from its own key, see `example_keys`, so what happens to it does not depend on the batch it comes
in. Mixing is the exception: `mixup` and `cutmix` take a partner from the batch.

Images are normalised when they come here. What moves pixels does not mind; what changes colours, `colour_jitter` and
`randaugment`, takes the mean and the standard deviation that the images were normalised with, works on `[0, 1]` as
torchvision does, and normalises the result again.
"""

from cnnjax.data.augment.colour import colour_jitter
from cnnjax.data.augment.geometry import cutout, flip, flip_alternating, flip_vertical, pad_crop, translate
from cnnjax.data.augment.keys import Augment, example_keys
from cnnjax.data.augment.mixing import cutmix, mixup, one_of
from cnnjax.data.augment.names import parse
from cnnjax.data.augment.policies import randaugment
from cnnjax.data.augment.resize import random_resized_crop, scale_jitter

__all__ = [
    "Augment",
    "colour_jitter",
    "cutmix",
    "cutout",
    "example_keys",
    "flip",
    "flip_alternating",
    "flip_vertical",
    "mixup",
    "one_of",
    "pad_crop",
    "parse",
    "randaugment",
    "random_resized_crop",
    "scale_jitter",
    "translate",
]


def __dir__() -> list[str]:
    return __all__
