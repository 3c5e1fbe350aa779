import gzip
import io
import struct
import tarfile
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cnnjax.data import formats, png
from cnnjax.data.cifar import cifar_binary_format
from cnnjax.data.formats import Archive, Folder, gunzip
from cnnjax.errors import CnnjaxError
from tests.data import tiny
from tests.data.tiny import FILES, assert_same, cifar_rows, tar_of

CONTENT = tiny.splits()
IDX = formats.idx_format(tiny.COUNTS)
IMAGES = tiny.IDX_NAMES[0]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("inside", [".", "package/data", "raw"])
def test_idx_files_in_a_folder(tmp_path, zipped, inside):
    tiny.write(tmp_path / inside, tiny.idx_files(CONTENT, zipped=zipped))
    assert_same(IDX.read(Folder(tmp_path)), CONTENT)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_idx_files_in_an_archive(tmp_path, mode):
    path = tar_of(tmp_path / "a", {f"package/data/{name}": data for name, data in FILES.items()}, mode)
    assert_same(IDX.read(Archive(path, "a")), CONTENT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "expected 31,376 bytes, got 31,375: truncated"),
        (lambda data: data + b"x", "expected 31,376 bytes, got 31,377"),
        (lambda data: data[:10], "expected an idx file that begins with 0x00000803, got 00000803"),
        (lambda data: b"", "got none"),
        (lambda data: b"<html>" + data, "expected an idx file that begins with 0x00000803, got 3c68746d"),
        (
            lambda data: data[:4] + struct.pack(">3I", 41, 28, 28) + data[16:],
            r"expected shape \(40, 28, 28\), got \(41",
        ),
        (lambda data: gzip.compress(data)[:-9], "truncated or damaged gzip data"),
        (lambda data: gzip.compress(bytes(70 * 2**20)), "expected at most 67,108,864 bytes inside, got more"),
    ],
)
def test_a_wrong_idx_file_is_refused_by_name(tmp_path, change, message):
    tiny.write(tmp_path, FILES | {IMAGES: change(FILES[IMAGES])})
    with pytest.raises(CnnjaxError, match=rf"{tmp_path}: {IMAGES}: .*{message}"):
        IDX.read(Folder(tmp_path))


def test_missing_files_are_named(tmp_path):
    tiny.write(tmp_path, {IMAGES: FILES[IMAGES]})
    with pytest.raises(CnnjaxError, match=r"expected the four idx files, but t10k-images-idx3-ubyte, .* is missing"):
        IDX.read(Folder(tmp_path))


def test_files_beyond_their_limit_are_not_read(tmp_path):
    tiny.write(tmp_path, {"a": bytes(11)})
    with pytest.raises(CnnjaxError, match="expected at most 10 bytes, got 11"):
        Folder(tmp_path).read({"a": 10})
    with pytest.raises(CnnjaxError, match="x/a: expected at most 10 bytes, got 11"):
        Archive(tar_of(tmp_path / "t", {"x/a": bytes(11)}), "t").read({"a": 10})


def test_a_truncated_archive_is_refused_by_name(tmp_path):
    path = tar_of(tmp_path / "t.tgz", {"a": np.random.default_rng(0).bytes(50000)})
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(CnnjaxError, match=r"t\.tgz: truncated, or no tar archive"):
        Archive(path, "t.tgz").read({"a": 10**6})


def test_links_in_archives_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "t", "w") as tar:
        member = tarfile.TarInfo("a")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(member)
    assert Archive(tmp_path / "t", "t").read({"a": 100}) == {}


def test_what_is_not_gzip_is_left_as_it_is():
    assert gunzip("a", b"plain", 3) == b"plain"


@pytest.mark.parametrize("coarse", [False, True])
def test_cifar_binary(tmp_path, coarse):
    content = tiny.splits(shape=(32, 32, 3))
    families = np.arange(40, dtype=np.int32) % 20
    half = [content["train"].take(slice(0, 20)), content["train"].take(slice(20, 40))]
    parts = {"a.bin": half[0], "b.bin": half[1], "t.bin": content["test"]}
    files = {name: cifar_rows(part, families if coarse else None) for name, part in parts.items()}
    layout = cifar_binary_format(
        {"train": ("a.bin", "b.bin"), "test": ("t.bin",)}, {"train": 20, "test": 10}, coarse=coarse
    )
    read = layout.read(Archive(tar_of(tmp_path / "t", files), "t"))
    assert_same(read, content)
    if coarse:
        np.testing.assert_array_equal(read["train"].coarse, np.concatenate([families[:20], families[:20]]))
    tiny.write(tmp_path / "folder", files | {"b.bin": files["b.bin"][:-1]})
    with pytest.raises(CnnjaxError, match=r"b\.bin: expected .* bytes, got .*: truncated"):
        layout.read(Folder(tmp_path / "folder"))


# ---- PNG -------------------------------------------------------------------------------------------------------------

shapes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))


@given(shapes, st.integers(0, 2**32))
def test_png_round_trip_and_pillow_agrees(shape, seed):
    images = np.random.default_rng(seed).integers(0, 256, (3, *shape), dtype=np.uint8)
    files = [png.encode(image) for image in images]
    np.testing.assert_array_equal(png.decode(files, shape), images)
    with Image.open(io.BytesIO(files[0])) as file:
        np.testing.assert_array_equal(np.array(file).reshape(shape), images[0])


def filtered(image, kinds):
    """Return a grey PNG whose row y has filter kinds[y], made pixel by pixel as the specification says."""
    height, width = image.shape
    pixels = np.zeros((height + 1, width + 1), int)
    pixels[1:, 1:] = image
    raw = b""
    for y in range(height):
        row = []
        for x in range(width):
            a, b, c = int(pixels[y + 1, x]), int(pixels[y, x + 1]), int(pixels[y, x])
            paeth = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            row.append((int(image[y, x]) - [0, a, b, (a + b) // 2, paeth][kinds[y]]) % 256)
        raw += bytes([kinds[y], *row])
    plain = png.encode(image[..., None])
    body = zlib.compress(raw)
    # In two IDAT chunks, which a decoder has to join.
    return plain[:33] + png._chunk(b"IDAT", body[:7]) + png._chunk(b"IDAT", body[7:]) + plain[-12:]


@given(st.integers(0, 2**32), st.lists(st.integers(0, 4), min_size=6, max_size=6))
def test_png_filters_are_undone(seed, kinds):
    images = np.random.default_rng(seed).integers(0, 256, (2, 6, 5), dtype=np.uint8)
    files = [filtered(images[0], kinds), filtered(images[1], kinds[::-1]), png.encode(images[0][..., None])]
    with Image.open(io.BytesIO(files[0])) as file:
        np.testing.assert_array_equal(np.array(file), images[0])
    np.testing.assert_array_equal(png.decode(files, (6, 5, 1))[..., 0], np.stack([*images, images[0]]))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_other_encodings_go_through_pillow(kind):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8))
    data = io.BytesIO()
    image.save(data, kind)
    with Image.open(data) as file:
        np.testing.assert_array_equal(png.decode([data.getvalue()], (8, 9, 3))[0], np.array(file))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "image 1: 0 bytes are no readable image"),
        (png.encode(np.zeros((4, 4, 1), np.uint8)), r"image 1: expected \(5, 4\) pixels, got \(4, 4\)"),
        (png.encode(np.zeros((5, 4, 1), np.uint8))[:-20], "image 1: .* no readable image"),
    ],
)
def test_png_damage_is_named(data, message):
    with pytest.raises(ValueError, match=message):
        png.decode([png.encode(np.zeros((5, 4, 1), np.uint8)), data], (5, 4, 1))


def test_a_filter_that_does_not_exist_is_refused():
    plain = png.encode(np.zeros((1, 1, 1), np.uint8))
    data = plain[:33] + png._chunk(b"IDAT", zlib.compress(b"\x07\x00")) + plain[-12:]
    with pytest.raises(ValueError, match="filter that does not exist"):
        png.decode([data], (1, 1, 1))
