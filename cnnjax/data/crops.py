"""Images of any size, decoded and cut to one size: at random in training, from the centre in evaluation."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnnjax.data.images import Box, centre, decode, opened, resize_part, upright_size
from cnnjax.data.pixels import PixelRange
from cnnjax.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

_ATTEMPTS = 10
# Random numbers that an image takes: four an attempt, and one for the flip.
DRAWS = 4 * _ATTEMPTS + 1
# Of an image longer than this many times its shorter side only what is kept is resized: memory has an end.
_LONGEST = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crops:
    """Say how an image becomes one of a fixed size.

    Args:
      size: `(H, W)` of the result.
      resize: Pixels of the shorter side before the centre is cut out in evaluation, at least as many as `size`; None
        for the largest centred part of the right proportions, as `load_image` has it.
      random: Whether a training image is a random part, resized, and mirrored half of the time; if not, training
        images are cut as in evaluation.
      area: Least and greatest part of the image's area that a random part has.
      ratio: Least and greatest width of a random part, divided by its height.
      upright: Whether EXIF orientation is applied. ImageNet's published numbers were reached without.
      pixel_range: What black and white are stored as in pixels deeper than 8 bits; None for what the files say.
    Raises:
      UsageError: If `resize` is smaller than the result.
    """

    size: tuple[int, int]
    resize: int | None = None
    random: bool = False
    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    upright: bool = True
    pixel_range: PixelRange | None = None

    def __post_init__(self) -> None:
        if self.resize is not None and self.resize < max(self.size):
            raise UsageError(
                f"resize size: expected at least {max(self.size)} pixels, the side of the images that are cut out, "
                f"got {self.resize}."
            )

    def resized(self, size: tuple[int, int]) -> "Crops":
        """Return the same for images of another size; `resize` keeps its proportion to it."""
        resize = None if self.resize is None else round(self.resize * max(size) / max(self.size))
        return dataclasses.replace(self, size=size, resize=resize)


def random_box(
    size: tuple[int, int], draws: Sequence[float], area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Return `(top, left, height, width)` of a random part of an image: torchvision's `RandomResizedCrop`.

    The part's area is uniform, its aspect ratio uniform in the logarithm; a part that does not fit is drawn anew, ten
    times; then the centre is taken, at the nearest allowed ratio.

    References:
      Szegedy et al., 2014, https://arxiv.org/abs/1409.4842, section 6.
    Example:
      >>> random_box((375, 500), [0.5] * DRAWS, (0.08, 1.0), (3 / 4, 4 / 3))
      (29, 91, 318, 318)
    """
    height, width = size
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for at in range(0, 4 * _ATTEMPTS, 4):
        pixels = height * width * (area[0] + (area[1] - area[0]) * draws[at])
        aspect = math.exp(low + (high - low) * draws[at + 1])
        wide, tall = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            return int(draws[at + 2] * (height - tall + 1)), int(draws[at + 3] * (width - wide + 1)), tall, wide
    wide, tall = width, height
    if width / height < ratio[0]:
        tall = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        wide = max(1, round(height * ratio[1]))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def training_image(
    name: str | Path, data: bytes | None, crops: Crops, channels: int, draws: Sequence[float]
) -> np.ndarray:
    """Return a random part of an image, as `crops` says.

    A JPEG that is at least twice as large as needed is decoded at a half, quarter or eighth of its size (Pillow's
    draft mode), which is faster and averages where bilinear resizing would too. In evaluation this is never done.
    """
    if not crops.random:
        return evaluation_image(name, data, crops, channels)
    height, width = crops.size
    options = {"upright": crops.upright, "pixel_range": crops.pixel_range}
    with opened(name, data) as file:
        full = upright_size(file) if crops.upright else (file.height, file.width)
        top, left, high, wide = random_box(full, draws, crops.area, crops.ratio)
        shrink = min(high // height, wide // width)
        if shrink > 1:
            file.draft(None, (file.width // shrink, file.height // shrink))
        drafted = file.width * file.height < full[0] * full[1]
        box = None if drafted else (left, top, left + wide, top + high)
        image, _ = decode(file, name, channels, part=box and (lambda *_: box), **options)
        part = (0.0, 0.0, float(image.width), float(image.height))
        if drafted:
            across, down = image.width / full[1], image.height / full[0]
            right, bottom = min((left + wide) * across, image.width), min((top + high) * down, image.height)
            part = (left * across, top * down, right, bottom)
        array = resize_part(image, (width, height), part)
    mirrored = array[:, ::-1] if draws[-1] < 0.5 else array
    return mirrored.reshape(height, width, channels)


def evaluation_image(name: str | Path, data: bytes | None, crops: Crops, channels: int) -> np.ndarray:
    """Return the centre of an image, as `crops` says; nothing is random."""
    shape = (*crops.size, channels)
    options = {"upright": crops.upright, "pixel_range": crops.pixel_range}
    with opened(name, data) as file:
        if crops.resize is None:
            image, _ = decode(file, name, channels, part=centre(shape), **options)
            return resize_part(image, (shape[1], shape[0]), (0, 0, *image.size)).reshape(shape)
        window = _Window(crops.resize, crops.size)
        image, _ = decode(file, name, channels, part=window.needed, **options)
        return window.cut(image).reshape(shape)


class _Window:
    """The centre of an image whose shorter side is resized first.

    Args:
      resize: What the shorter side becomes.
      size: `(H, W)` of the centre.
    """

    def __init__(self, resize: int, size: tuple[int, int]):
        self.resize, self.size = resize, size

    def needed(self, height: int, width: int) -> Box:
        """Return the part of the image that its centre is made of: all of it, but for a very long one."""
        self.full, shorter = (height, width), min(height, width)
        self.whole = (int(self.resize * height / shorter), int(self.resize * width / shorter))
        self.start = tuple(round((whole - part) / 2) for whole, part in zip(self.whole, self.size))
        self.box = (0, 0, width, height)
        if max(self.full) > _LONGEST * shorter:
            (top, bottom), (left, right) = map(self._reach, (0, 1))
            self.box = left, top, right, bottom
        return self.box

    def _reach(self, axis: int) -> tuple[int, int]:
        scale = self.full[axis] / self.whole[axis]
        margin = max(scale, 1) + 1
        low, high = self.start[axis] * scale, (self.start[axis] + self.size[axis]) * scale
        return max(0, math.floor(low - margin)), min(self.full[axis], math.ceil(high + margin))

    def cut(self, image: "Image") -> np.ndarray:
        """Return the centre, made of what `needed` named."""
        (top, left), (height, width) = self.start, self.size
        if self.box == (0, 0, *self.full[::-1]):
            array = resize_part(image, (self.whole[1], self.whole[0]), self.box)
            return array[top : top + height, left : left + width]
        down, across = (full / whole for full, whole in zip(self.full, self.whole))
        part = (left * across, top * down, (left + width) * across, (top + height) * down)
        shift = self.box
        return resize_part(
            image, (width, height), (part[0] - shift[0], part[1] - shift[1], part[2] - shift[0], part[3] - shift[1])
        )
