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
    """

    image: Array
    label: Array
    mask: Array = None
