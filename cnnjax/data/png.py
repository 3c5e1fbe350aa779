"""PNG files of small images, by the thousand: written plainly, and read back many at once.

An image library takes some 40 microseconds for the smallest file, most of it overhead; 70,000 files would be three
seconds of every start. Here each file is only inflated, and the filters of all grey ones are undone together.
"""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 3: 2}


def encode(image: np.ndarray, level: int = 6) -> bytes:
    """Return an image as a PNG file's bytes, unfiltered."""
    height, width, channels = image.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # a row's first byte is its filter: 0, none
    rows[:, 1:] = image.reshape(height, -1)
    body = zlib.compress(rows.tobytes(), level)
    return _SIGNATURE + _chunk(b"IHDR", _header(image.shape)) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def decode(files: Sequence[bytes], shape: tuple[int, int, int]) -> np.ndarray:
    """Return the images that PNG files of one known shape hold."""
    height, width, channels = shape
    rows = np.empty((len(files), height, 1 + width * channels), np.uint8)
    for place, data in enumerate(files):
        raw = _inflate(data, shape)
        # Colours go by Pillow where there are filters: at three bytes a pixel it is as quick as undoing them here.
        if raw is not None and (channels == 1 or not any(raw[:: rows.shape[2]])):
            rows[place] = np.frombuffer(raw, np.uint8).reshape(rows.shape[1:])
            continue
        try:
            rows[place, :, 0], rows[place, :, 1:] = 0, _decode_any(data, shape).reshape(height, -1)
        except ValueError as error:
            raise ValueError(f"image {place}: {error}") from error
    if rows[:, :, 0].any():
        _unfilter(rows)
    return rows[:, :, 1:].reshape(-1, *shape)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _header(shape: tuple[int, ...]) -> bytes:
    height, width, channels = shape
    return struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)


def _inflate(data: bytes, shape: tuple[int, int, int]) -> bytes | None:
    """Return the filtered rows of a file made of IHDR, IDAT and IEND chunks alone; None for any other."""
    if data[:8] != _SIGNATURE or data[12:16] != b"IHDR" or data[16:29] != _header(shape):
        return None
    body, place = b"", 33
    while data[place + 4 : place + 8] == b"IDAT":
        length = int.from_bytes(data[place : place + 4], "big")
        body += data[place + 8 : place + 8 + length]
        place += 12 + length
    if data[place + 4 : place + 8] != b"IEND":
        return None
    size = shape[0] * (1 + shape[1] * shape[2])
    try:
        raw = zlib.decompressobj().decompress(body, size + 1)  # no more than is due, whatever it claims
    except zlib.error:
        return None
    return raw if len(raw) == size else None


def _unfilter(rows: np.ndarray) -> None:
    """Undo the filters of grey images in place, row by row, for all images together.

    References:
      PNG (Portable Network Graphics) Specification, third edition, section 9, https://www.w3.org/TR/png-3/#9Filters
    """
    above = np.zeros((rows.shape[0], rows.shape[2] - 1), np.uint8)
    for y in range(rows.shape[1]):
        kind, line = rows[:, y, 0], rows[:, y, 1:]
        if (kind > 4).any():
            raise ValueError(f"image {int(np.argmax(kind > 4))}: a PNG row has a filter that does not exist.")
        line[kind == 1] = np.cumsum(line[kind == 1], axis=1, dtype=np.uint8)
        line[kind == 2] += above[kind == 2]
        for number, predict in ((3, _average), (4, _paeth)):
            chosen = np.flatnonzero(kind == number)
            line[chosen] = _predicted(line[chosen], above[chosen], predict)
        above = line


def _predicted(line: np.ndarray, above: np.ndarray, predict) -> np.ndarray:
    # Pixels along the first axis, so that each step reads whole rows of memory, and one of zeros before the first.
    delta = line.T.astype(np.int16)
    upper = np.concatenate([np.zeros((1, len(line)), np.int16), above.T.astype(np.int16)])
    done = np.zeros_like(upper)
    for x in range(len(delta)):
        done[x + 1] = (delta[x] + predict(done[x], upper[x + 1], upper[x])) & 255
    return done[1:].T.astype(np.uint8)


def _average(left: np.ndarray, upper: np.ndarray, corner: np.ndarray) -> np.ndarray:
    return (left + upper) >> 1


def _paeth(left: np.ndarray, upper: np.ndarray, corner: np.ndarray) -> np.ndarray:
    to_left, to_upper, to_corner = abs(upper - corner), abs(left - corner), abs(left + upper - 2 * corner)
    nearer = np.where(to_upper <= to_corner, upper, corner)
    return np.where((to_left <= to_upper) & (to_left <= to_corner), left, nearer)


def _decode_any(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as file:
            if (file.height, file.width) != shape[:2]:
                raise ValueError(f"expected {shape[:2]} pixels, got {(file.height, file.width)}.")
            image = np.asarray(file.convert("L" if shape[2] == 1 else "RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{len(data)} bytes are no readable image ({error}).") from error
    return image.reshape(shape)
