"""Photographs of any kind, read as a net's preprocessing takes them."""

import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from cnnjax import data
from cnnjax.data import images as files
from cnnjax.pretrained import Preprocess


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


def read(name: str, image: Any, rule: Preprocess, invert: bool) -> Photograph:
    """Return an image as a net's preprocessing takes it.

    Args:
      name: What to call it.
      image: A path, an image of Pillow's, or a uint8 array.
      rule: How it will be prepared.
      invert: Whether to swap light and dark.
    Raises:
      CnnjaxError: If it can't be read.
    """
    (height, width), _ = files.size_and_kind(image)
    pixels, done = data.load_image(image, rule.read_shape(height, width), invert=invert)
    mean = [value / (255 * rule.scale) for value in rule.mean]
    return Photograph(name, pixels, done + rule.steps(height, width), _hint(pixels, mean, invert))


def _hint(pixels: np.ndarray, mean: list[float], inverted: bool) -> str | None:
    if pixels.min() == pixels.max():
        return "is one colour all over: nothing to recognise"
    if len(mean) == 1 and not inverted and data.looks_inverted(pixels, mean):
        return "looks dark on light, unlike the training images: try --invert"
    return None
