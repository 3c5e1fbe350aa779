"""What happens to a tensor's values between a file's layout and cnnjax's, exactly and in both directions."""

import math
from dataclasses import dataclass

import numpy as np

_STRIP = 16


@dataclass(frozen=True)
class Transform:
    """Part the axes, reorder them, join them.

    Args:
      text: For the report.
      source: The shape in the file.
      parted: The same values with more axes.
      axes: The order of the parted axes in cnnjax.
      target: The shape in cnnjax.
    """

    text: str
    source: tuple[int, ...]
    parted: tuple[int, ...]
    axes: tuple[int, ...]
    target: tuple[int, ...]

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return the file's values in cnnjax's layout."""
        parted = values.reshape(self.parted)
        if self.axes[-1:] != (0,) or len(self.axes) < 2:
            return parted.transpose(self.axes).reshape(self.target)
        result = np.empty([self.parted[axis] for axis in self.axes], values.dtype)
        # In strips, because outputs come last: three times as fast as at once for a large dense kernel.
        for first in range(0, self.parted[0], _STRIP):
            result[..., first : first + _STRIP] = parted[first : first + _STRIP].transpose(self.axes)
        return result.reshape(self.target)

    def undo(self, values: np.ndarray) -> np.ndarray:
        """Return cnnjax's values in the file's layout."""
        ordered = tuple(self.parted[axis] for axis in self.axes)
        back = tuple(int(axis) for axis in np.argsort(self.axes))
        return values.reshape(ordered).transpose(back).reshape(self.source)


def identity(shape: tuple[int, ...]) -> Transform:
    """Return the transform that changes nothing."""
    return Transform("", shape, shape, tuple(range(len(shape))), shape)


def from_channels_first(
    source: tuple[int, ...], *, flatten: tuple[int, int] | None = None, dense: bool = False
) -> Transform:
    """Return how a kernel with its outputs first comes to have them last.

    Args:
      source: `[O, I, H, W]` of a convolution or `[O, I]` of a dense layer.
      flatten: `(H, W)` of the map that a dense kernel reads flattened, as channels, rows, columns.
      dense: Whether a convolution that covers the whole map is to become a dense kernel.
    Example:
      >>> from_channels_first((8, 12), flatten=(2, 3)).target, from_channels_first((8, 2, 3, 3)).target
      ((12, 8), (3, 3, 2, 8))
    """
    if len(source) == 4 and not dense:
        out, channels, height, width = source
        return Transform("OIHW -> HWIO", source, source, (2, 3, 1, 0), (height, width, channels, out))
    if len(source) == 4:
        out, channels, height, width = source
        return Transform("OIHW -> (HWI)O", source, source, (2, 3, 1, 0), (height * width * channels, out))
    out, inputs = source
    if flatten and inputs % math.prod(flatten) == 0:
        height, width = flatten
        parted = (out, inputs // math.prod(flatten), height, width)
        return Transform(f"O(C{height}x{width}) -> ({height}x{width}C)O", source, parted, (2, 3, 1, 0), (inputs, out))
    return Transform("OI -> IO", source, source, (1, 0), (inputs, out))


def from_channels_last(source: tuple[int, ...], target: tuple[int, ...]) -> Transform:
    """Return how Keras's kernel of a convolution comes to a model: depthwise ones as groups, 1x1 ones as dense.

    Args:
      source: `[H, W, I, O]`; a depthwise one `[H, W, C, 1]`.
      target: What the model has.
    Example:
      >>> from_channels_last((3, 3, 8, 1), (3, 3, 1, 8)).text, from_channels_last((1, 1, 8, 5), (8, 5)).text
      ('HWC1 -> HW1C', '11IO -> IO')
    """
    height, width, inputs, out = source
    if out == 1 and target == (height, width, 1, inputs):
        return Transform("HWC1 -> HW1C", source, source, (0, 1, 3, 2), target)
    if (height, width) == (1, 1) and len(target) == 2:
        return Transform("11IO -> IO", source, source, (0, 1, 2, 3), (inputs, out))
    return identity(source)


def from_flattened_channels(source: tuple[int, ...], flatten: tuple[int, int]) -> Transform:
    """Return how a dense kernel `[I, O]` that reads a map as channels, rows, columns comes to read channels last.

    Args:
      source: `[I, O]`.
      flatten: `(H, W)` of the map.
    """
    inputs, out = source
    if inputs % math.prod(flatten):
        return identity(source)
    height, width = flatten
    parted = (inputs // math.prod(flatten), height, width, out)
    return Transform(f"(C{height}x{width})O -> ({height}x{width}C)O", source, parted, (1, 2, 0, 3), source)


def to_channels_first(target: tuple[int, ...], *, flatten: tuple[int, int] | None = None) -> Transform:
    """Return the transform whose result has this shape: the inverse is what `save` needs.

    Args:
      target: `[H, W, I, O]` or `[I, O]`.
      flatten: As in `from_channels_first`.
    """
    if len(target) == 4:
        height, width, channels, out = target
        return from_channels_first((out, channels, height, width))
    return from_channels_first((target[1], target[0]), flatten=flatten)
