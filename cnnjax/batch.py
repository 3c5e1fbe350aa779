"""What the data rooms hand to the training rooms: one batch, and nothing else."""

from typing import Any

from flax import struct

Array = Any


class Batch(struct.PyTreeNode):
    """Hold one batch of labelled images.

    Args:
      image: Normalised images, float, `[N, H, W, C]`.
      label: Class numbers, int32, `[N]`, each in `[0, num_classes)`.
      mask: bool, `[N]`, False for an example that only fills the batch up; None when every example counts.
      index: The examples' places in their split, int32, `[N]`; what chance does to an example is derived from it, so
        that it does not depend on the batch it came in. None when they are not known.
      epoch: Numbers of the epochs, from 0, that the examples are taken in, int32, `[N]` (a batch may lie across the end
        of one), or one for all; None when it is not known.
      mixed_label: For mixed images (mixup, cutmix): class numbers of what was mixed in, int32, `[N]`; else None.
      mix_weight: For mixed images: weight of `label`, float32, `[N]`, in [0, 1]; `mixed_label` has the rest. Else None.
    """

    image: Array
    label: Array
    mask: Array = None
    index: Array = None
    epoch: Array = None
    mixed_label: Array = None
    mix_weight: Array = None
