"""Photographs of any kind, read as a net's preprocessing takes them, and what a net makes of them."""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cnnjax import data, models
from cnnjax.data import images as files
from cnnjax.errors import UsageError
from cnnjax.pretrained import Preprocess

# Values in one evaluation batch: many small images at once, few large ones.
_EVAL_BATCH_VALUES = 2**19


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image.

    Args:
      image: Its path, or its place among the images.
      classes: Names, the most probable first.
      probabilities: Theirs, between 0 and 1.
      done: What was done to it before the net saw it.
      hint: What a person should know about an image unlike those of the training, or None.
    """

    image: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    done: str
    hint: str | None = None

    def __str__(self) -> str:
        lines = [f"{self.image}: {self.done}"]
        lines += [f"  {p:7.2%}  {name}" for name, p in zip(self.classes, self.probabilities)]
        return "\n".join([*lines, *([f"  {self.hint}"] if self.hint else [])])


class Predictions(tuple[Prediction, ...]):
    """What `Classifier.predict` found, one `Prediction` an image; printed, a table."""

    def __str__(self) -> str:
        return "\n".join(map(str, self))


class Photograph(NamedTuple):
    """An image that was read.

    Args:
      name: Its path, or its place among the images.
      pixels: uint8, `[H, W, C]`.
      done: What was done to it, and will be before the net sees it.
      hint: What a person should know about an image unlike those of the training, or None.
    """

    name: str
    pixels: np.ndarray
    done: str
    hint: str | None


def listed(images: Any) -> list[tuple[str, Any]]:
    """Return images with their names, whether there is one or several."""
    if isinstance(images, str | pathlib.Path) or not isinstance(images, Iterable) or getattr(images, "ndim", 4) < 4:
        images = [images]
    return [
        (str(image) if isinstance(image, str | pathlib.Path) else f"image {place}", image)
        for place, image in enumerate(images)
    ]


def read(
    name: str, image: Any, rule: Preprocess, *, invert: bool, pixel_range: tuple[float, float] | None
) -> Photograph:
    """Return an image as a net's preprocessing takes it.

    Args:
      name: What to call it.
      image: A path, an image of Pillow's, or a uint8 array.
      rule: How it will be prepared.
      invert: Whether to swap light and dark.
      pixel_range: What black and white are stored as in pixels deeper than 8 bits; None for what the file says.
    Raises:
      CnnjaxError: If it can't be read.
    """
    if isinstance(image, str | pathlib.Path):
        (height, width), _ = files.size_and_kind(image)
    else:
        image = _picture(name, image)
        height, width = files.upright_size(image)
    pixels, done = data.load_image(image, rule.read_shape(height, width), invert=invert, pixel_range=pixel_range)
    mean = [value / (255 * rule.scale) for value in rule.mean]
    return Photograph(name, pixels, done + rule.steps(height, width), _hint(pixels, mean, invert))


def _picture(name: str, image: Any) -> Any:
    """Return an image in memory as Pillow's."""
    from PIL import Image

    if isinstance(image, Image.Image):
        return image
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4))):
        raise UsageError(
            f"{name}: expected a path, an image of Pillow's or uint8 pixels [H, W] or [H, W, C], got {pixels.dtype} of "
            f"shape {pixels.shape}.{_fix(pixels)}"
        )
    return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def _fix(pixels: np.ndarray) -> str:
    """Return what to write in place of pixels that are not taken."""
    if pixels.dtype.kind == "f":
        return " Bring pixels of 0 to 1 to 0 to 255: (255 * x).round().astype('uint8')."
    if pixels.dtype.kind in "iu" and pixels.dtype != np.uint8:  # 255 times as much would wrap around
        return " Of pixels 0 to 255, write x.astype('uint8')."
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4):
        return " Move the channels last: x.transpose(1, 2, 0)."
    return ""


def _hint(pixels: np.ndarray, mean: list[float], inverted: bool) -> str | None:
    if pixels.min() == pixels.max():
        return "is one colour all over: nothing to recognise"
    if len(mean) == 1 and not inverted and data.looks_inverted(pixels, mean):
        return "looks dark on light, unlike the training images: try --invert"
    return None


def needed_size(model: nn.Module, image_shape: Sequence[int]) -> tuple[int, int] | None:
    """Return the size that images are to be resized to, or None when the model takes them as they are.

    Args:
      model: A model; one of ours says which images are too small for it.
      image_shape: `(H, W, C)` as stored.
    """
    if not type(model).__module__.startswith(models.__name__):
        return None
    try:
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    except UsageError:  # too small for it
        return model.input_shape[:2]
    return None


def eval_batch_size(image_shape: Sequence[int], least: int = 1) -> int:
    """Return how many images to evaluate at once: many small ones, few large ones, and not fewer than `least`."""
    height, width, channels = image_shape
    return max(least, min(500, _EVAL_BATCH_VALUES // (height * width * channels)))
