"""Image files of any kind, turned into the arrays a model was trained on; and a sentence of what was done to them."""

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnjax.errors import CnnjaxError

if TYPE_CHECKING:
    from PIL.Image import Image

# A path, an image of Pillow's, or a uint8 array.
Source = Any
# A picture of 10,000 by 10,000 takes 0.4 GB as RGBA; files that claim more are taken for bombs.
_MOST_PIXELS = 100_000_000
_GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_ORIENTATION = 0x0112  # EXIF tag; from 5 on, height and width change places


def load_image(path: Source, image_shape: tuple[int, int, int], *, invert: bool = False) -> tuple[np.ndarray, str]:
    """Read an image of any size and mode as an image of the given shape.

    EXIF orientation is applied, transparency is laid on white, deep pixels are scaled to 8 bits, colours become grey or
    grey becomes colours, the largest centred part of the right proportions is cut out and resized, bilinear and
    antialiased.

    Args:
      path: The file, or an image of Pillow's, or a uint8 array `[H, W]` or `[H, W, C]`.
      image_shape: `(H, W, C)` of the images the model was trained on, as stored; C is 1 or 3.
      invert: Whether to swap light and dark at the end, for ink on paper where the model knows light on dark.
    Returns:
      uint8, `[H, W, C]`, and a sentence that says each thing that was done, such as
      `640×480 RGBA → transparency on white, grey, centre 480×480 → 28×28`.
    Raises:
      CnnjaxError: If the file is no readable image; the message names it.
      ValueError: If C is neither 1 nor 3.
    """
    with quiet():
        array, steps = read_image(path, image_shape)
    if invert:
        array = 255 - array
        steps.append("inverted")
    return array, f"{steps[0]} → {', '.join(steps[1:])}" if steps[1:] else f"{steps[0]}, as it is"


def read_image(path: Source, image_shape: tuple[int, int, int]) -> tuple[np.ndarray, list[str]]:
    """Do what `load_image` does, in any thread; warnings are the caller's, see `quiet`.

    Args:
      path: The file.
      image_shape: `(H, W, C)`.
    Returns:
      The image, and what it was and what was done to it, step by step.
    """
    if image_shape[2] not in (1, 3):
        raise ValueError(f"load_image: expected image_shape with 1 or 3 channels, got {image_shape}.")
    with opened(path) as file:
        begin = f"{file.width}×{file.height} {file.mode}"
        image, upright = make_upright(file)
    image, mode_steps = in_mode(image, image_shape[2], path)
    array, cut_steps = cut(image, image_shape)
    return array, [begin, *upright, *mode_steps, *cut_steps]


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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop warnings: Pillow's of odd metadata, and of sizes before our own limit speaks. For one thread at a time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def opened(path: Source, data: bytes | None = None) -> "Iterator[Image]":
    """Open an image file, and turn whatever is wrong with it into one line that names it.

    Args:
      path: The file, or, with `data`, what to call it in messages; or an image in memory.
      data: The file's content, where that is in memory.
    Raises:
      CnnjaxError: If it cannot be read, is no image, is truncated or absurdly large; while the block runs, too.
    """
    from PIL import Image, UnidentifiedImageError

    if not isinstance(path, str | Path):
        yield _from_memory(path)
        return
    try:
        with Image.open(path if data is None else io.BytesIO(data)) as file:
            if file.width * file.height > _MOST_PIXELS:
                what = f"{file.width}×{file.height} pixels are too many"
                raise CnnjaxError(f"{path}: {what}, expected at most {_MOST_PIXELS:,}.")
            yield file
    except CnnjaxError:
        raise
    except UnidentifiedImageError as error:
        raise CnnjaxError(f"{path}: not an image in a format that Pillow reads.") from error
    except Image.DecompressionBombError as error:
        raise CnnjaxError(f"{path}: too many pixels, expected at most {_MOST_PIXELS:,}.") from error
    except OSError as error:
        raise CnnjaxError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except Exception as error:  # what Pillow's readers let through for damaged files: SyntaxError, IndexError, ...
        raise CnnjaxError(f"{path}: damaged image ({error or type(error).__name__}).") from error


def size_and_kind(path: Source) -> tuple[tuple[int, int], bool]:
    """Return `(H, W)` of an image as it is meant to be seen, and whether it is grey, from the file's header alone.

    Args:
      path: The file.
    """
    with opened(path) as file:
        size = (file.width, file.height) if is_turned(file) else (file.height, file.width)
        return size, file.mode in _GREY_MODES


def is_turned(file: "Image") -> bool:
    """Return whether EXIF says that height and width change places."""
    return file.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)


def make_upright(file: "Image") -> tuple["Image", list[str]]:
    """Return the image, decoded and turned as EXIF says, and what was done.

    Args:
      file: An opened file.
    """
    from PIL import ImageOps

    steps = []
    frames = getattr(file, "n_frames", 1)
    if frames > 1:
        steps.append(f"first of {frames} frames")
    file.load()
    orientation = file.getexif().get(_ORIENTATION, 1)
    image = ImageOps.exif_transpose(file)
    if orientation in range(2, 9):
        steps.append("turned as EXIF says")
    return image, steps


def in_mode(image: "Image", channels: int, path: str | Path) -> tuple["Image", list[str]]:
    """Return the image in mode L or RGB, deep pixels scaled and transparency on white, and what was done.

    Args:
      image: Decoded, in any mode.
      channels: 1 or 3.
      path: What to call it in messages.
    """
    from PIL import Image

    steps, was_grey = [], image.mode in _GREY_MODES
    if image.mode == "F" or image.mode.startswith("I"):
        image, step = _to_8_bits(image, path)
        steps.append(step)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            steps.append("transparency on white")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
        steps += [] if was_grey and mode == "L" else ["grey" if mode == "L" else "RGB"]
    return image, steps


def cut(image: "Image", shape: tuple[int, int, int]) -> tuple[np.ndarray, list[str]]:
    """Return the largest centred part of the right proportions, resized, and what was done.

    Args:
      image: In mode L or RGB.
      shape: `(H, W, C)`.
    """
    from PIL import Image

    height, width, _ = shape
    steps: list[str] = []
    wide = max(1, min(image.width, round(image.height * width / height)))
    high = max(1, min(image.height, round(image.width * height / width)))
    if (wide, high) != image.size:
        left, top = (image.width - wide) // 2, (image.height - high) // 2
        image = image.crop((left, top, left + wide, top + high))
        steps.append(f"centre {wide}×{high}")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        steps[-1:] = [f"{steps[-1]} → {width}×{height}" if steps else f"{width}×{height}"]
    return np.array(image).reshape(shape), steps


def _from_memory(image: Any) -> "Image":
    """Return an image in memory as Pillow's."""
    from PIL import Image

    if isinstance(image, Image.Image):
        return image
    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        raise CnnjaxError(
            f"expected a path, a Pillow image or uint8 pixels [H, W] or [H, W, C], got {pixels.dtype} of shape "
            f"{pixels.shape}. Scale them to 0..255: (255 * x).astype('uint8')."
        )
    return Image.fromarray(pixels)


def _to_8_bits(image: "Image", path: str | Path) -> tuple["Image", str]:
    """Scale 16-bit, 32-bit and float pixels by what their range says: 65535, 255, 1, else from least to greatest."""
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise CnnjaxError(f"{path}: holds pixels that are no finite numbers.")
    low, high = float(values.min()), float(values.max())
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and high > 255)
    if low >= 0 and sixteen and high <= 65535:
        scaled, step = values / 257, "16 to 8 bits"
    elif low >= 0 and high <= 1 and image.mode == "F":
        scaled, step = values * 255, "[0, 1] to 8 bits"
    elif low >= 0 and high <= 255:
        scaled, step = values, "8 bits"
    else:
        scaled, step = (values - low) * (255 / (high - low)), f"[{low:g}, {high:g}] to 8 bits"
    return Image.fromarray(np.round(scaled).astype(np.uint8)), step
