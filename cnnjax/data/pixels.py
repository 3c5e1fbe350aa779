"""Pixels of any kind, turned into 8-bit grey or RGB by what a file's type and header say of them."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cnnjax.errors import CnnjaxError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

# What black and white are stored as.
PixelRange = tuple[float, float]

GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_OTHER_MODES = ("P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr")
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF's tags
_SIGNED, _FLOAT = 2, 3  # its sample formats
_CHUNK = 2**20  # pixels that are scaled at a time
# How far beyond [0, 1] the pixels of a float image may reach, as sharpening makes them, and still be taken for such.
_OVERSHOOT = 0.25


class Stored(NamedTuple):
    """A file's way to store pixels deeper than 8 bits, the same for every image of its type."""

    dtype: type | None  # what Pillow's numbers have to be taken for
    ends: PixelRange | None  # of black and white; None where neither type nor header say it
    unit: bool  # whether these are [0, 1] by nothing but convention

    @classmethod
    def of(cls, file: "Image", given: PixelRange | None) -> "Stored | None":
        """Return how an opened file stores its pixels; None where they are 8 bits deep."""
        if given and not -np.inf < given[0] < given[1] < np.inf:
            raise UsageError(f"pixel_range: expected LOW less than HIGH, got {given[0]:g} {given[1]:g}.")
        tiff = file.format == "TIFF"
        bits, kind, photometric = (_tag(file, tag) for tag in (_BITS, _SAMPLE_FORMAT, _PHOTOMETRIC))
        signed_bytes = tiff and file.mode == "L" and kind == _SIGNED
        if file.mode != "F" and not file.mode.startswith("I") and not signed_bytes:
            return None
        if file.mode == "F":
            ends = (0.0, 1.0) if file.format != "PPM" else None  # a PFM file's numbers are light, without a limit
        elif tiff:
            ends = (0.0, 2.0**bits - 1) if kind not in (_SIGNED, _FLOAT) and bits <= 16 else None
        else:  # what a PGM's or JPEG 2000's header says, Pillow scales to 16 bits
            ends = (0.0, 65535.0) if file.mode != "I" or file.format in ("PNG", "PPM") else None
        ends = given or ends
        if ends and tiff and photometric == 0:  # white is zero
            ends = (ends[1], ends[0])
        dtype = np.int8 if signed_bytes else np.uint32 if tiff and (file.mode, kind, bits) == ("I", 1, 32) else None
        return cls(dtype, ends, file.mode == "F" and given is None)


def _tag(file: "Image", tag: int) -> int:
    value = getattr(file, "tag_v2", {}).get(tag, 1)
    return value[0] if isinstance(value, tuple) else value


def mend_transparency(file: "Image") -> None:
    """Make a PNG's transparent colour one that Pillow compares as it should; at other than 8 bits it does not."""
    tiles: Any = getattr(file, "tile", None) if file.format == "PNG" else None
    raw = tiles[0][3] if tiles else None
    if "transparency" not in file.info or raw not in ("L;2", "L;4", "RGB;16B"):
        return
    if raw != "RGB;16B":  # pixels are spread over 0 to 255, the colour is not
        file.info["transparency"] *= 85 if raw == "L;2" else 17
        return
    from PIL import Image

    colour, handle = file.info.pop("transparency"), file.fp  # pyright: ignore[reportAttributeAccessIssue]
    place = handle.tell()
    handle.seek(0)
    again = io.BytesIO(handle.read())
    handle.seek(place)
    file.load()
    with Image.open(again, formats=("PNG",)) as lower:  # Pillow keeps the upper byte of a value alone
        lower.tile = [type(lower.tile[0])(*lower.tile[0][:3], "RGB;16L")]  # as if the lower byte came last
        values = np.asarray(file).astype(np.uint16) << 8 | np.asarray(lower)
    file.putalpha(Image.fromarray(np.where((values == np.array(colour)).all(-1), 0, 255).astype(np.uint8)))


def in_mode(image: "Image", channels: int, path: str | Path, stored: Stored | None) -> tuple["Image", list[str]]:
    """Return a decoded image in mode L or RGB, on white where it is transparent, and what was done."""
    from PIL import Image

    steps, was_grey = [], image.mode in GREY_MODES
    if stored is not None:
        image, steps = _to_8_bits(image, path, stored)
    elif not was_grey and image.mode not in _OTHER_MODES:
        raise CnnjaxError(f"{path}: has colours of the kind {image.mode}, which are not read. Save it as RGB.")
    elif image.has_transparency_data:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        extrema: Any = image.getextrema()
        if extrema[3][0] < 255:
            steps.append("transparency on white")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
        steps += [] if was_grey and mode == "L" else ["grey" if mode == "L" else "RGB"]
    return image, steps


def _to_8_bits(image: "Image", path: str | Path, stored: Stored) -> tuple["Image", list[str]]:
    from PIL import Image

    pixels, key = np.asarray(image), image.info.get("transparency")
    pixels = pixels if stored.dtype is None else pixels.view(stored.dtype)
    result, rows, keyed = np.empty(pixels.shape, np.uint8), max(1, _CHUNK // image.width), False
    for top in range(0, len(pixels), rows):
        values, part = pixels[top : top + rows].astype(np.float64), result[top : top + rows]
        low, high = float(values.min()), float(values.max())
        if not np.isfinite([low, high]).all():
            raise CnnjaxError(f"{path}: holds pixels that are no finite numbers.")
        if stored.ends is None or (stored.unit and not -_OVERSHOOT <= low <= high <= 1 + _OVERSHOOT):
            raise CnnjaxError(
                f"{path}: does not say what black and white are stored as, and holds pixels from {low:g} to {high:g}. "
                "State it: --pixel-range LOW HIGH (in Python pixel_range=(LOW, HIGH))."
            )
        black, white = stored.ends
        part[:] = np.round(np.clip((values - black) * (255 / (white - black)), 0, 255))
        if key is not None:
            part[values == key] = 255
            keyed = keyed or bool((values == key).any())
    low, high = sorted(stored.ends or (0, 0))
    bits = int(high + 1).bit_length() - 1
    whole = low == 0 and high == 2**bits - 1 and image.mode != "F"
    said = f"{bits} to 8 bits" if whole else f"[{low:g}, {high:g}] to 8 bits"
    return Image.fromarray(result), [said, "transparency on white"] if keyed else [said]
