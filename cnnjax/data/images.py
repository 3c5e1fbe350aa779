"""Image files of any kind, decoded to 8-bit grey or RGB: the one place that opens pictures."""

import contextlib
import functools
import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnnjax.data.pixels import GREY_MODES, PixelRange, Stored, in_mode, mend_transparency
from cnnjax.errors import CnnjaxError

if TYPE_CHECKING:
    from PIL.Image import Image

# What Pillow decodes by itself. Of the others some start a program: EPS would start Ghostscript.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "AVIF", "JPEG2000")
_SIGNATURES = {b"%PDF": "PDF", b"<svg": "SVG", b"<?xml": "XML or SVG", b"<!DOC": "HTML", b"<html": "HTML"}
# A picture of 10,000 by 10,000 takes 0.4 GB as RGBA; files that claim more are taken for bombs.
_MOST_PIXELS = 100_000_000
_ORIENTATION = 0x0112  # EXIF's tag

Box = tuple[int, int, int, int]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop warnings: Pillow's of odd metadata, and of sizes before our own limit speaks. For one thread at a time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def opened(path: str | Path, data: bytes | None = None) -> "Iterator[Image]":
    """Open an image file, and turn whatever is wrong with it into one line that names it."""
    from PIL import Image, UnidentifiedImageError

    try:
        if data is None and not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path):
            raise CnnjaxError(f"{path}: is not a regular file.")
        with Image.open(path if data is None else io.BytesIO(data), formats=_formats()) as file:
            if file.width * file.height > _MOST_PIXELS:
                what = f"{file.width}×{file.height} pixels are too many"
                raise CnnjaxError(f"{path}: {what}, expected at most {_MOST_PIXELS:,}.")
            mend_transparency(file)
            yield file
    except CnnjaxError:
        raise
    except UnidentifiedImageError as error:
        raise CnnjaxError(f"{path}: {_unidentified(path, data)}") from error
    except Image.DecompressionBombError as error:
        raise CnnjaxError(f"{path}: too many pixels, expected at most {_MOST_PIXELS:,}.") from error
    except OSError as error:
        raise CnnjaxError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except Exception as error:  # what Pillow's readers let through for damaged files: SyntaxError, IndexError, ...
        raise CnnjaxError(f"{path}: damaged image ({error or type(error).__name__}).") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)  # a Pillow may be built without some


def _unidentified(path: str | Path, data: bytes | None) -> str:
    from PIL import Image

    if data is None:
        with open(path, "rb") as file:
            data = file.read(32)
    begin = data[:32].ljust(32, b"\0")
    accepts = {name: Image.OPEN[name][1] for name in Image.ID}
    names = [name for name, accept in accepts.items() if accept is not None and accept(begin) is True]
    names += [name for signature, name in _SIGNATURES.items() if begin.lstrip().startswith(signature)]
    names += ["HEIC"] if begin[4:8] == b"ftyp" else []
    known = ", ".join(_formats())
    if names and names[0] in _FORMATS:
        return f"damaged {names[0]} image, or of a kind that Pillow does not read."
    if names:
        return f"is {names[0]}, which is not decoded; expected {known}. Save it as PNG or JPEG."
    return f"not an image in a format that Pillow reads by itself ({known})."


def load_image(
    path: "str | Path | Image",
    image_shape: tuple[int, int, int],
    *,
    invert: bool = False,
    pixel_range: PixelRange | None = None,
) -> tuple[np.ndarray, str]:
    """Read an image file of any size and mode as an image of the given shape.

    EXIF orientation is applied, transparency is laid on white, deep pixels are scaled to 8 bits, colours become grey or
    grey becomes colours, the largest centred part of the right proportions is cut out and resized, bilinear and
    antialiased.

    Args:
      path: The file, or an image of Pillow's.
      image_shape: `(H, W, C)` of the images the model was trained on, as stored; C is 1 or 3.
      invert: Whether to swap light and dark at the end, for ink on paper where the model knows light on dark.
      pixel_range: What black and white are stored as in pixels deeper than 8 bits; None for what the file's type and
        header say.
    Returns:
      uint8, `[H, W, C]`, and a sentence that says each thing that was done, such as
      `640×480 RGBA → transparency on white, grey, centre 480×480 → 28×28`.
    Raises:
      CnnjaxError: If the file is no readable image, or does not say what its pixels' range is; the message names it.
      ValueError: If C is neither 1 nor 3.
    """
    with quiet():
        array, steps = read_image(path, image_shape, pixel_range)
    if invert:
        array = 255 - array
        steps.append("inverted")
    return array, f"{steps[0]} → {', '.join(steps[1:])}" if steps[1:] else f"{steps[0]}, as it is"


def read_image(
    path: "str | Path | Image", shape: tuple[int, int, int], pixel_range: PixelRange | None = None
) -> tuple[np.ndarray, list[str]]:
    """Do what `load_image` does, in any thread; warnings are the caller's, see `quiet`."""
    if shape[2] not in (1, 3):
        raise ValueError(f"load_image: expected image_shape with 1 or 3 channels, got {shape}.")
    height, width, channels = shape
    name = path if isinstance(path, str | Path) else "image"
    with opened(path) if isinstance(path, str | Path) else contextlib.nullcontext(path) as file:
        begin = f"{file.width}×{file.height} {file.mode}"
        full = upright_size(file)
        image, steps = decode(file, name, channels, part=centre(shape), pixel_range=pixel_range)
        cut = [] if image.size == full[::-1] else [f"centre {image.width}×{image.height}"]
        if image.size != (width, height):
            cut = [" → ".join([*cut, f"{width}×{height}"])]
        return resize_part(image, (width, height), (0, 0, *image.size)).reshape(shape), [begin, *steps, *cut]


def looks_inverted(image: np.ndarray, mean: Sequence[float]) -> bool:
    """Return whether an image looks like the negative of what the training images look like.

    True where the training images are clearly dark or clearly light on average, and this one is nearer to the opposite.

    Args:
      image: uint8, `[H, W, C]`.
      mean: Per channel, of the training images in [0, 1].
    Example:
      >>> looks_inverted(np.full((28, 28, 1), 250, np.uint8), mean=(0.13,))
      True
    """
    usual, here = float(np.mean(mean)), float(image.mean()) / 255
    return abs(usual - 0.5) > 0.15 and abs(here - (1 - usual)) < abs(here - usual)


def size_and_kind(path: str | Path) -> tuple[tuple[int, int], bool]:
    """Return `(H, W)` of an image as it is meant to be seen, and whether it is grey, from the file's header alone."""
    with opened(path) as file:
        return upright_size(file), file.mode in GREY_MODES


def upright_size(file: "Image") -> tuple[int, int]:
    """Return `(H, W)` of an opened file as it is meant to be seen."""
    # Pillow's reader of TIFF states the upright size, and turns the image while it decodes it.
    turned = file.format != "TIFF" and _orientation(file) in (5, 6, 7, 8)
    return (file.width, file.height) if turned else (file.height, file.width)


def decode(
    file: "Image",
    path: str | Path,
    channels: int,
    *,
    upright: bool = True,
    part: Callable[[int, int], tuple[int, int, int, int]] | None = None,
    pixel_range: PixelRange | None = None,
) -> tuple["Image", list[str]]:
    """Return an image in mode L or RGB, and what was done to it, step by step.

    It is turned as EXIF says, a part is cut out, deeper pixels are scaled to 8 bits by what the file's type and header
    say (the same for every image of that type, whatever it shows), and what is transparent is laid on white.
    """
    frames = getattr(file, "n_frames", 1)
    steps = [f"first of {frames} frames"] if frames > 1 else []
    stored, orientation = Stored.of(file, pixel_range), _orientation(file)
    file.load()
    image = file
    if upright and orientation in range(2, 9):
        from PIL import ImageOps

        image = ImageOps.exif_transpose(file)  # a TIFF is turned by now, and says so no more
        steps.append("turned as EXIF says")
    if part is not None:
        box = part(image.height, image.width)
        image = image if box == (0, 0, *image.size) else image.crop(box)
    image, mode_steps = in_mode(image, channels, path, stored)
    return image, steps + mode_steps


def _orientation(file: "Image") -> int:
    return file.getexif().get(_ORIENTATION, 1)


def centre(shape: tuple[int, int, int]) -> Callable[[int, int], Box]:
    """Return what gives the largest centred part of an image that has a shape's proportions."""

    def box(height: int, width: int) -> Box:
        wide = max(1, min(width, round(height * shape[1] / shape[0])))
        high = max(1, min(height, round(width * shape[0] / shape[1])))
        left, top = (width - wide) // 2, (height - high) // 2
        return left, top, left + wide, top + high

    return box


def resize_part(image: "Image", size: tuple[int, int], part: tuple[float, float, float, float]) -> np.ndarray:
    """Return a part of an image, `(left, top, right, bottom)`, as `size`, `(W, H)`: bilinear, antialiased."""
    from PIL import Image

    return np.array(image.resize(size, Image.Resampling.BILINEAR, box=part))
