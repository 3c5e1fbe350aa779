"""Pixels of all depths and kinds, turned and transparent ones, against files that are written here byte by byte."""

import io
import os
import stat
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import load_image
from cnnjax.data.crops import DRAWS, Crops, evaluation_image, training_image
from cnnjax.data.images import size_and_kind
from cnnjax.errors import CnnjaxError
from tests.data.photos import picture

RNG = np.random.default_rng(0)


def png(values, depth, colour, *extra):
    """Return a PNG file of whole numbers `[H, W, bands]`, with chunks `(kind, data)` before its pixels."""
    height, width, _ = values.shape
    bits = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(height, -1, 2), axis=-1)[..., -depth:]
    rows = np.packbits(bits.reshape(height, -1), axis=-1)
    body = zlib.compress(np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes())
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def tiff(values, bits, kind, photometric=1, order="<"):
    """Return a TIFF file of one band, `[H, W]`, as TIFF 6.0 has it; 12 bits are packed."""
    data = values.tobytes()
    if bits == 12:
        flat = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(values.shape[0], -1, 2), axis=-1)[..., 4:]
        data = np.packbits(flat.reshape(values.shape[0], -1), axis=-1).tobytes()
    tags = {256: values.shape[1], 257: values.shape[0], 258: bits, 259: 1, 262: photometric, 273: 8}
    tags |= {277: 1, 278: values.shape[0], 279: len(data), 339: kind}
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return (
        magic
        + struct.pack(f"{order}I", 8 + len(data))
        + data
        + struct.pack(f"{order}H", len(tags))
        + entries
        + b"\0" * 4
    )


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def grey(tmp_path, data, **options):
    (tmp_path / "a").write_bytes(data)
    image = np.array(Image.open(io.BytesIO(data)))
    return load_image(tmp_path / "a", (*image.shape[:2], 1), **options)[0][..., 0]


UNIT = np.array([[0.0, 0.5], [0.25, 1.0]], np.float32)
SIXTEEN = np.array([[0, 200], [300, 65535]], np.uint16)


def pgm(values, maxval, order=">u2"):
    return f"P5 {values.shape[1]} {values.shape[0]} {maxval}\n".encode() + values.astype(order).tobytes()


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (pgm(SIXTEEN, 65535), [[0, 1], [1, 255]]),
        (pgm(np.array([[0, 200]]), 65535), [[0, 1]]),
        (pgm(np.array([[0, 500], [1000, 250]]), 1000), [[0, 128], [255, 64]]),
        (pgm(np.array([[0, 5], [10, 15]]), 15, "u1"), [[0, 85], [170, 255]]),
        (b"P2 2 1 1000\n500 1000\n", [[128, 255]]),
        (png(SIXTEEN[..., None], 16, 0), [[0, 1], [1, 255]]),
        (tiff(SIXTEEN, 16, 1), [[0, 1], [1, 255]]),
        (tiff(SIXTEEN.astype(">u2"), 16, 1, order=">"), [[0, 1], [1, 255]]),
        (tiff(SIXTEEN, 16, 1, photometric=0), [[255, 254], [254, 0]]),
        (tiff(np.array([[0, 819], [2048, 4095]], np.uint16), 12, 1), [[0, 51], [128, 255]]),
        (tiff(UNIT, 32, 3), [[0, 128], [64, 255]]),
        (tiff(UNIT.astype(">f4"), 32, 3, order=">"), [[0, 128], [64, 255]]),
        (tiff(UNIT, 32, 3, photometric=0), [[255, 128], [191, 0]]),
        (tiff(np.array([[7, 9]], np.uint8), 8, 1, photometric=0), [[248, 246]]),
    ],
)
def test_what_black_and_white_are_is_what_type_and_header_say(tmp_path, data, wanted):
    np.testing.assert_array_equal(grey(tmp_path, data), wanted)


def test_an_images_own_extremes_play_no_part(tmp_path):
    values = np.full((100, 100), 0.5, np.float32)
    values[:50] = np.linspace(0, 1, 5000, dtype=np.float32).reshape(50, 100)
    plain = grey(tmp_path, tiff(values, 32, 3))
    values[0, 0] = 1.001
    above = grey(tmp_path, tiff(values, 32, 3))
    assert abs(above.mean() - 127.5) < 0.5
    np.testing.assert_array_equal(above.ravel()[1:], plain.ravel()[1:])
    assert above[0, 0] == 255


@pytest.mark.parametrize("number", [250, 260, 7, -3, 90.0, 300.5, -0.5])
@pytest.mark.parametrize("kind", ["int32", "int16", "uint32", "float", "pfm"])
def test_where_a_format_does_not_say_it_has_to_be_stated(tmp_path, number, kind):
    dtype = {"float": np.float32, "pfm": np.float32}.get(kind) or np.dtype(kind)
    number = abs(number) if kind == "uint32" else number
    for values in (np.full((3, 4), number, dtype), np.array([[0, number, 1]], dtype)):
        if kind == "pfm":
            data = f"Pf {values.shape[1]} {values.shape[0]} -1\n".encode() + values.tobytes()
        else:
            data = tiff(values, values.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[values.dtype.kind])
        with pytest.raises(CnnjaxError, match=f"^{tmp_path}/a: does not say .*--pixel-range LOW HIGH") as caught:
            grey(tmp_path, data)
        assert "\n" not in str(caught.value)
        wanted = np.clip((values.astype(float) + 10) / 320 * 255, 0, 255)
        got = grey(tmp_path, data, pixel_range=(-10, 310))[:: -1 if kind == "pfm" else 1]
        assert np.abs(got - wanted).max() <= 0.5


def test_large_unsigned_numbers_are_not_negative(tmp_path):
    data = tiff(np.array([[0, 2**31, 2**32 - 1]], np.uint32), 32, 1)
    np.testing.assert_array_equal(grey(tmp_path, data, pixel_range=(0, 2**32 - 1)), [[0, 128, 255]])


def test_signed_bytes_are_not_taken_for_large_ones(tmp_path):
    data = tiff(np.array([[-1, 0, 1]], np.int8), 8, 2)
    with pytest.raises(CnnjaxError, match="pixels from -1 to 1"):
        grey(tmp_path, data)
    np.testing.assert_array_equal(grey(tmp_path, data, pixel_range=(-1, 1)), [[0, 128, 255]])


def test_pictures_in_memory_go_by_their_type():
    assert load_image(Image.fromarray(SIXTEEN), (2, 2, 1))[0].ravel().tolist() == [0, 1, 1, 255]
    assert load_image(Image.fromarray(UNIT), (2, 2, 1))[0].ravel().tolist() == [0, 128, 64, 255]
    with pytest.raises(CnnjaxError, match=r"^image: does not say"):
        load_image(Image.fromarray(SIXTEEN.astype(np.int32)), (2, 2, 1))


def turned(array, orientation):
    """Return the array as EXIF 2.32, tag 274, says that it is meant to be seen."""
    flipped, transposed = array[:, ::-1], array.swapaxes(0, 1)
    as_meant = {1: array, 2: flipped, 3: array[::-1, ::-1], 4: array[::-1], 5: transposed, 6: np.rot90(array, -1)}
    return (as_meant | {7: array[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(array)})[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "TIFF", "WEBP", "AVIF"])
def test_all_orientations_in_all_formats_that_carry_them(tmp_path, kind, orientation):
    image = picture((40, 64))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"append_images": [image]} if kind == "MPO" else {}
    plain = np.array(Image.open(io.BytesIO(encoded(image, kind, **options))).convert("RGB"))
    path = tmp_path / "x"
    path.write_bytes(encoded(image, kind, exif=exif, **options))
    wanted = turned(plain, orientation)
    assert size_and_kind(path)[0] == wanted.shape[:2]
    close = 0 if kind != "AVIF" else 6  # turned before it is coded
    found, done = load_image(path, wanted.shape)
    assert np.abs(found.astype(int) - wanted).max() <= close
    assert ("turned as EXIF says" in done) == (orientation != 1)
    # The largest square is as large as it can be, wherever images are cut.
    square = load_image(path, (40, 40, 3))[0]
    again = evaluation_image(path, None, Crops(size=(40, 40)), 3)
    np.testing.assert_array_equal(square, again)
    (top, left), crops = ((size - 40) // 2 for size in wanted.shape[:2]), Crops(size=(40, 40), resize=40)
    assert np.abs(square.astype(int) - wanted[top : top + 40, left : left + 40]).max() <= close
    np.testing.assert_array_equal(evaluation_image(path, None, crops, 3), square)
    whole = Crops(size=wanted.shape[:2], random=True, area=(1.0, 1.0), ratio=(wanted.shape[1] / wanted.shape[0],) * 2)
    random = training_image(path, None, whole, 3, [0.5] * DRAWS)
    assert np.abs(random.astype(int) - wanted).max() <= close


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_grey_of_a_png_is_white(tmp_path, depth):
    most = 2**depth - 1
    values = np.arange(16).reshape(4, 4, 1) % (most + 1) if depth < 8 else RNG.integers(0, most + 1, (4, 4, 1))
    for number in {0, 1, int(values[2, 2, 0]), most}:
        values[0, 0], values[3, 3] = number, min(number + 1, most)
        wanted = np.where(values == number, 255, np.round(values / most * 255))[..., 0]
        data = png(values, depth, 0, (b"tRNS", struct.pack(">H", number)))
        np.testing.assert_array_equal(grey(tmp_path, data), wanted)


@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_colour_of_a_png_is_white(tmp_path, depth):
    values = RNG.integers(0, 2**depth, (3, 4, 3))
    values[0, 0] = values[1, 1]
    values[0, 1] = values[1, 1] ^ [0, 0, 1]  # differs in its last bit alone
    data = png(values, depth, 2, (b"tRNS", struct.pack(">3H", *values[1, 1].tolist())))
    (tmp_path / "a.png").write_bytes(data)
    for read in (lambda: load_image(tmp_path / "a.png", (3, 4, 3))[0], lambda: evaluation_image("x", data, CROP, 3)):
        wanted = np.where((values == values[1, 1]).all(-1, keepdims=True), 255, values >> (depth - 8))
        np.testing.assert_array_equal(read(), wanted)
    exact = Crops(size=(3, 4), random=True, area=(1.0, 1.0), ratio=(4 / 3, 4 / 3))
    np.testing.assert_array_equal(training_image("x", data, exact, 3, [0.5] * DRAWS), wanted)


CROP = Crops(size=(3, 4))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("bands", [1, 3])
def test_alpha_is_mixed_with_white(tmp_path, depth, bands):
    values = RNG.integers(0, 256, (3, 4, bands + 1))
    (tmp_path / "a.png").write_bytes(png(values * (257 if depth == 16 else 1), depth, 4 if bands == 1 else 6))
    image, done = load_image(tmp_path / "a.png", (3, 4, 3))
    alpha = values[..., -1:] / 255
    assert np.abs(image - (values[..., :-1] * alpha + 255 * (1 - alpha))).max() <= 1
    assert "transparency on white" in done


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_transparent_entries_of_a_palette(tmp_path, depth):
    palette, alpha = RNG.integers(0, 256, (2**depth, 3), dtype=np.uint8), RNG.integers(0, 256, 2**depth, dtype=np.uint8)
    for alphas in (alpha, np.where(np.arange(2**depth) == 1, 0, 255).astype(np.uint8)):
        values = RNG.integers(0, 2**depth, (3, 4, 1))
        chunks = (b"PLTE", palette.tobytes()), (b"tRNS", alphas.tobytes())
        (tmp_path / "a.png").write_bytes(png(values, depth, 3, *chunks))
        colour, share = palette[values[..., 0]], alphas[values] / 255
        image = load_image(tmp_path / "a.png", (3, 4, 3))[0]
        assert np.abs(image - (colour * share + 255 * (1 - share))).max() <= 1


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("WEBP", "RGBA", {"lossless": True, "exact": True}),
        ("TIFF", "RGBA", {}),
        ("TIFF", "LA", {}),
        ("premultiplied", "LA", {}),
        ("premultiplied", "RGBA", {}),
        ("ICO", "RGBA", {"sizes": [(16, 16)]}),
        ("JPEG2000", "RGBA", {"irreversible": False}),
        ("JPEG2000", "LA", {"irreversible": False}),
        ("AVIF", "RGBA", {"quality": 100, "subsampling": "4:4:4"}),
        ("GIF", "RGBA", {}),
    ],
)
def test_transparency_in_other_formats(tmp_path, kind, mode, options):
    bands = [picture((16, 16), seed, "L") for seed in range(4)]
    alpha = bands[3].point(lambda value: 255 if value > 127 else 0) if kind == "GIF" else bands[3]
    image = Image.merge("RGBA", [*bands[:3], alpha])
    image = image.convert(mode)
    colour, share = np.array(image.convert("RGBA"))[..., :3], np.array(image.getchannel("A"))[..., None] / 255
    wanted = colour * share + 255 * (1 - share)
    if kind == "premultiplied":  # as TIFF has it where its tag ExtraSamples, 338, is 1 in place of 2
        array = np.array(image)
        array[..., :-1] = np.round(array[..., :-1] * share)
        saved, unassociated = encoded(Image.fromarray(array), "TIFF"), struct.pack("<HHIHH", 338, 3, 1, 2, 0)
        assert saved.count(unassociated) == 1
        data = saved.replace(unassociated, struct.pack("<HHIHH", 338, 3, 1, 1, 0))
    else:
        data = encoded(image, kind, **options)
    (tmp_path / "a").write_bytes(data)
    found = load_image(tmp_path / "a", (16, 16, 3))[0]
    close = {"AVIF": 12, "GIF": 60}.get(kind, 2)  # colours are coded coarsely there
    assert np.abs(found - wanted).max() <= close
    assert (found[share[..., 0] == 0] == 255).all()


def ghostscript(tmp_path, monkeypatch):
    """Put a program of that name first on the PATH, and return the file that it makes when it is called."""
    program, called = tmp_path / "bin" / "gs", tmp_path / "called"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {called}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return called


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n0 0 moveto 20 20 lineto stroke\nshowpage\n"


def test_no_picture_runs_a_program(tmp_path, monkeypatch):
    called = ghostscript(tmp_path, monkeypatch)
    path = tmp_path / "x.jpg"
    for data in (EPS, b"\xc5\xd0\xd3\xc6" + struct.pack("<7I", 32, len(EPS), 0, 0, 0, 0, 0) + EPS):
        path.write_bytes(data)
        for read in (
            lambda: load_image(path, (8, 8, 3)),
            lambda: size_and_kind(path),
            lambda data=data: evaluation_image("x.jpg", data, CROP, 3),
            lambda data=data: training_image("x.jpg", data, Crops(size=(8, 8), random=True), 3, [0.5] * DRAWS),
        ):
            with pytest.raises(CnnjaxError, match=r"x\.jpg: is EPS, which is not decoded; expected PNG, JPEG, "):
                read()
    assert not called.exists()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"8BPS\0\1" + b"\0" * 40, "PSD"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"  <svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\xd7\xcd\xc6\x9a" + b"\0" * 40, "WMF"),
        (encoded(Image.new("RGB", (4, 4)), "SGI"), "SGI"),
        (encoded(Image.new("RGB", (4, 4)), "PCX"), "PCX"),
    ],
)
def test_other_formats_are_refused_by_their_name(tmp_path, data, name):
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(CnnjaxError, match=rf"x\.png: is {name}, which is not decoded; .* Save it as PNG or JPEG\.$"):
        load_image(tmp_path / "x.png", (4, 4, 3))


def test_colours_of_an_unknown_kind_are_named(tmp_path):
    Image.new("LAB", (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(CnnjaxError, match=r"a\.tif: has colours of the kind LAB, .* Save it as RGB"):
        load_image(tmp_path / "a.tif", (4, 4, 3))


def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(CnnjaxError, match=r"x\.png: is not a regular file"):
        load_image(tmp_path / "x.png", (4, 4, 3))


@pytest.mark.parametrize("size", [(5001, 1), (1, 5001), (9000, 3), (3, 9001), (4000, 400)])
def test_the_kept_part_of_a_long_image_is_torchvisions(size):
    """Made of the part alone; at each end of what is kept it reads the neighbours, as resizing all of it does."""
    array = RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    shorter = min(size)
    whole = (int(24 * size[0] / shorter), int(24 * size[1] / shorter))
    left, top = (round((side - 16) / 2) for side in whole)
    wanted = Image.fromarray(array).resize(whole, Image.Resampling.BILINEAR).crop((left, top, left + 16, top + 16))
    found = evaluation_image("x", encoded(Image.fromarray(array), "PNG"), Crops(size=(16, 16), resize=24), 3)
    assert np.abs(found.astype(int) - np.array(wanted)).max() <= 1


@pytest.mark.parametrize("size", [(100_000_000, 1), (1, 5000), (1, 100_000)])
def test_bombs_by_shape_take_little_memory(tmp_path, size):
    """In a process of its own: what it took at most is asked of the system."""
    path = tmp_path / "long.png"
    rows = zlib.compressobj()
    body = b"".join(rows.compress(b"\0" + b"\x80" * size[0]) for _ in range(size[1])) + rows.flush()
    header = struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    script = f"""
import resource, sys
from cnnjax.data.crops import DRAWS, Crops, evaluation_image, training_image
from cnnjax.data.images import load_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for random in (False, True):
    crops = Crops(size=(224, 224), resize=256, random=random)
    image = training_image({str(path)!r}, None, crops, 3, [0.5] * DRAWS)
    assert image.shape == (224, 224, 3) and (image == 128).all()
assert (load_image({str(path)!r}, (224, 224, 3))[0] == 128).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=True)
    taken = int(done.stdout) * (1024 if sys.platform != "darwin" else 1)
    assert taken < 2 * size[0] * size[1] + 64 * 2**20
