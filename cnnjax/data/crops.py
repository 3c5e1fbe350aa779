"""Images of any size, decoded and cut to one size: at random in training, from the centre in evaluation."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnnjax.data.images import cut, in_mode, is_turned, make_upright, opened
from cnnjax.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

_ATTEMPTS = 10
# Random numbers that an image takes: four an attempt, and one for the flip.
DRAWS = 4 * _ATTEMPTS + 1
# An image longer than this many times its shorter side loses its ends before it is enlarged: memory has an end.
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
    Raises:
      UsageError: If `resize` is smaller than the result.
    """

    size: tuple[int, int]
    resize: int | None = None
    random: bool = False
    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    upright: bool = True

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

    Args:
      size: `(H, W)` of the image.
      draws: Numbers in [0, 1), four an attempt: area, ratio, top, left.
      area: See `Crops`.
      ratio: See `Crops`.
    Returns:
      Pixels, inside the image.
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

    Args:
      name: The file, or, with `data`, what to call it in messages.
      data: The file's content, where that is in memory.
      crops: How to cut.
      channels: 1 or 3.
      draws: `DRAWS` numbers in [0, 1).
    Returns:
      uint8, `[H, W, C]`.
    Raises:
      CnnjaxError: If it is no readable image; the message names it.
    """
    if not crops.random:
        return evaluation_image(name, data, crops, channels)
    height, width = crops.size
    with opened(name, data) as file:
        turned = crops.upright and is_turned(file)
        full = (file.width, file.height) if turned else (file.height, file.width)
        top, left, high, wide = random_box(full, draws, crops.area, crops.ratio)
        shrink = min(high // height, wide // width)
        if shrink > 1:
            file.draft(None, (file.width // shrink, file.height // shrink))
        image = _decoded(file, crops, channels, name)
        if image.size == full[::-1]:
            image = image.crop((left, top, left + wide, top + high))
            part = (0, 0, wide, high)
        else:
            across, down = image.width / full[1], image.height / full[0]
            right, bottom = min((left + wide) * across, image.width), min((top + high) * down, image.height)
            part = (left * across, top * down, right, bottom)
        array = _resized(image, (width, height), part)
    mirrored = array[:, ::-1] if draws[-1] < 0.5 else array
    return mirrored.reshape(height, width, channels)


def evaluation_image(name: str | Path, data: bytes | None, crops: Crops, channels: int) -> np.ndarray:
    """Return the centre of an image, as `crops` says; nothing is random.

    Args:
      name: The file, or, with `data`, what to call it in messages.
      data: The file's content, where that is in memory.
      crops: How to cut.
      channels: 1 or 3.
    Returns:
      uint8, `[H, W, C]`. With `resize`, equal to torchvision's `Resize` (antialiased) and `CenterCrop`.
    Raises:
      CnnjaxError: If it is no readable image; the message names it.
    """
    shape = (*crops.size, channels)
    with opened(name, data) as file:
        image = _decoded(file, crops, channels, name)
        if crops.resize is None:
            return cut(image, shape)[0]
        limit = _LONGEST * min(image.size)
        wide, high = min(image.width, limit), min(image.height, limit)
        if (wide, high) != image.size:
            left, top = (image.width - wide) // 2, (image.height - high) // 2
            image = image.crop((left, top, left + wide, top + high))
        shorter = min(image.size)
        whole = (int(crops.resize * image.width / shorter), int(crops.resize * image.height / shorter))
        array = _resized(image, whole, (0, 0, *image.size))
    top, left = (round((full - part) / 2) for full, part in zip(array.shape, crops.size))
    return array[top : top + crops.size[0], left : left + crops.size[1]].reshape(shape)


def _decoded(file: "Image", crops: Crops, channels: int, name: str | Path) -> "Image":
    if crops.upright:
        image, _ = make_upright(file)
    else:
        file.load()
        image = file
    return in_mode(image, channels, name)[0]


def _resized(image: "Image", size: tuple[int, int], part: tuple[float, float, float, float]) -> np.ndarray:
    from PIL import Image

    return np.array(image.resize(size, Image.Resampling.BILINEAR, box=part))
