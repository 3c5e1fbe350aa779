import io
import warnings

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import load_image, looks_inverted
from cnnjax.errors import CnnjaxError

GREY = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def save(tmp_path, image, name="a.png", **options):
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_an_image_of_the_right_kind_is_left_as_it_is(tmp_path):
    image, done = load_image(save(tmp_path, GREY), (28, 28, 1))
    np.testing.assert_array_equal(image[..., 0], GREY)
    assert (image.shape, image.dtype, done) == ((28, 28, 1), np.uint8, "28×28 L, as it is")
    image, done = load_image(str(save(tmp_path, COLOUR)), (12, 20, 3))
    np.testing.assert_array_equal(image, COLOUR)
    assert done == "20×12 RGB, as it is"


def test_centre_crop_and_antialiased_resize(tmp_path):
    image, done = load_image(save(tmp_path, Image.new("RGB", (640, 480), "red")), (28, 28, 1))
    assert done == "640×480 RGB → grey, centre 480×480 → 28×28"
    assert np.all(image == 76)  # 0.299 of 255
    image, done = load_image(save(tmp_path, COLOUR), (6, 5, 3))
    expected = Image.fromarray(COLOUR[:, 5:15]).resize((5, 6), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(image, np.array(expected))
    assert done == "20×12 RGB → centre 10×12 → 5×6"


def test_enlarging(tmp_path):
    image, done = load_image(save(tmp_path, GREY[:8, :8]), (32, 32, 1))
    assert image.shape == (32, 32, 1)
    assert done == "8×8 L → 32×32"


@pytest.mark.parametrize("size", [(1, 1), (1000, 1), (1, 1000), (28, 29)])
@pytest.mark.parametrize("shape", [(28, 28, 1), (5, 9, 3)])
def test_any_size_becomes_the_shape(tmp_path, size, shape):
    image, _ = load_image(save(tmp_path, Image.new("L", size, 200)), shape)
    assert image.shape == shape
    assert np.all(image == 200)


@pytest.mark.parametrize(
    ("mode", "fill", "name", "grey", "done"),
    [
        ("1", 1, "a.png", 255, "4×4 1, as it is"),
        ("LA", (0, 0), "a.png", 255, "4×4 LA → transparency on white"),
        ("LA", (60, 255), "a.png", 60, "4×4 LA, as it is"),
        ("RGBA", (0, 0, 0, 0), "a.png", 255, "4×4 RGBA → transparency on white, grey"),
        ("RGBA", (10, 10, 10, 255), "a.png", 10, "4×4 RGBA → grey"),
        ("P", 3, "a.gif", None, "4×4 P → grey"),
        ("CMYK", (0, 0, 0, 255), "a.jpg", 0, "4×4 CMYK → grey"),
        ("I;16", 257 * 7, "a.png", 7, "4×4 I;16 → 16 to 8 bits"),
        ("I;16", 257 * 7, "a.tif", 7, "4×4 I;16 → 16 to 8 bits"),
        ("F", 0.2, "a.tif", 51, "4×4 F → [0, 1] to 8 bits"),
        ("YCbCr", (100, 128, 128), "a.jpg", 100, "4×4 RGB → grey"),
    ],
)
def test_modes_become_grey(tmp_path, mode, fill, name, grey, done):
    image, said = load_image(save(tmp_path, Image.new(mode, (4, 4), fill), name), (4, 4, 1))
    if grey is not None:
        assert np.all(abs(image.astype(int) - grey) <= 1)
    assert said == done


def test_modes_become_rgb(tmp_path):
    for mode in ("1", "L", "LA", "RGBA", "P"):
        image, _ = load_image(save(tmp_path, Image.new(mode, (4, 4))), (4, 4, 3))
        assert image.shape == (4, 4, 3)


def test_palette_with_transparency_lies_on_white(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image, done = load_image(save(tmp_path, image, transparency=0), (4, 4, 3))
    assert np.all(image == 255)
    assert "transparency on white" in done


def test_half_transparency_is_mixed(tmp_path):
    image, _ = load_image(save(tmp_path, Image.new("RGBA", (2, 2), (0, 0, 0, 128))), (2, 2, 1))
    assert np.all(image == 127)


def test_a_stated_range_is_taken_and_clipped(tmp_path):
    values = np.array([[-2.0, 0.0], [1.0, 6.0]], np.float32)
    path = save(tmp_path, values, "a.tif")
    image, done = load_image(path, (2, 2, 1), pixel_range=(-2, 6))
    np.testing.assert_array_equal(image[..., 0], [[0, 64], [96, 255]])
    assert done == "2×2 F → [-2, 6] to 8 bits"
    image, _ = load_image(path, (2, 2, 1), pixel_range=(0, 1))
    for ends in ((5, 5), (6, -2), (0, np.inf), (np.nan, 1)):
        with pytest.raises(CnnjaxError, match="pixel_range: expected LOW less than HIGH"):
            load_image(path, (2, 2, 1), pixel_range=ends)
    np.testing.assert_array_equal(image[..., 0], [[0, 0], [255, 255]])


def test_exif_orientation(tmp_path):
    image = Image.fromarray(COLOUR)
    exif = image.getexif()
    exif[0x0112] = 6
    turned, done = load_image(save(tmp_path, image, exif=exif), (20, 12, 3))
    np.testing.assert_array_equal(turned, np.rot90(COLOUR, -1))
    assert done == "20×12 RGB → turned as EXIF says"


def test_first_of_several_frames(tmp_path):
    frames = [Image.new("L", (4, 4), value) for value in (0, 255)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    image, done = load_image(tmp_path / "a.gif", (4, 4, 1))
    assert np.all(image == 0)
    assert "first of 2 frames" in done


def test_invert(tmp_path):
    image, done = load_image(save(tmp_path, GREY), (28, 28, 1), invert=True)
    np.testing.assert_array_equal(image[..., 0], 255 - GREY)
    assert done == "28×28 L → inverted"


def test_looks_inverted():
    dark, light = np.full((4, 4, 1), 20, np.uint8), np.full((4, 4, 1), 230, np.uint8)
    assert looks_inverted(light, (0.13,))
    assert not looks_inverted(dark, (0.13,))
    assert looks_inverted(dark, (0.9,))
    assert not looks_inverted(light, (0.49, 0.48, 0.45))


def png_bytes(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def bomb():
    """Return a small file that says it is 50,000 by 50,000 pixels."""
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", 50000, 50000, 8, 0, 0, 0, 0)
    data = png_bytes(GREY)
    return data[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an image in a format that Pillow reads"),
        (b"not an image", "not an image"),
        (png_bytes(COLOUR)[:200], "cannot be read|damaged"),
        (png_bytes(COLOUR)[:40], "cannot be read|damaged|not an image"),
        (bomb(), "too many"),
    ],
    ids=["empty", "text", "truncated", "header", "bomb"],
)
def test_bad_images_are_named_in_one_line(tmp_path, data, message):
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(CnnjaxError, match=f"^{path}: .*({message})") as caught:
        load_image(path, (28, 28, 1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "message"), [("none.png", "No such file"), (".", "Is a directory")])
def test_paths_that_are_no_files(tmp_path, name, message):
    with pytest.raises(CnnjaxError, match=message):
        load_image(tmp_path / name, (28, 28, 1))


def test_large_images_are_refused_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("cnnjax.data.images._MOST_PIXELS", 100)
    with pytest.raises(CnnjaxError, match="28×28 pixels are too many, expected at most 100"):
        load_image(save(tmp_path, GREY), (28, 28, 1))


def test_pixels_that_are_no_numbers_are_refused(tmp_path):
    path = save(tmp_path, np.array([[np.nan, 1.0]], np.float32), "a.tif")
    with pytest.raises(CnnjaxError, match=f"{path}: holds pixels that are no finite numbers"):
        load_image(path, (1, 2, 1))


def test_wrong_shape_is_a_programmers_error(tmp_path):
    with pytest.raises(ValueError, match="expected image_shape with 1 or 3 channels"):
        load_image(save(tmp_path, GREY), (28, 28, 2))


def test_warnings_are_left_as_they_were(tmp_path):
    before = list(warnings.filters)
    load_image(save(tmp_path, GREY), (28, 28, 1))
    assert warnings.filters == before
