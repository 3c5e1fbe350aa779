"""Zip archives that lie, reach out of themselves or blow up are refused before anything is read."""

import contextlib
import stat
import struct
import zipfile

import pytest

from cnnjax.pretrained import WeightsError
from cnnjax.pretrained.readers.zips import Archive

# The process that reads a file ends with it, so nothing closes it before.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed file:ResourceWarning"
)


def archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members:
            file.writestr(name, data)
    return path


def patched(path, old, new):
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_what_zipfile_reads(compression, tmp_path):
    members = [("a/data.pkl", b"abc" * 1000), ("a/b", b""), ("a/ü", bytes(range(256)))]
    found = Archive(archive(tmp_path / "a.zip", members, compression))
    assert [(name, found.read(name)) for name in found.members] == members


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "C:/x", "a\\..\\x", "..\\x", "a/../b", "a\nb"])
def test_members_outside_are_refused(name, tmp_path):
    with pytest.raises(WeightsError, match=r"lies outside the archive|not plain text"):
        Archive(archive(tmp_path / "a.zip", [("a/b", b"1"), (name, b"2")]))
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("a/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(WeightsError, match="the member 'a/link' is a link"):
        Archive(archive(tmp_path / "a.zip", [(link, b"/etc/passwd")]))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_double_names_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="'a' is in the archive more than once"):
        Archive(archive(tmp_path / "a.zip", [("a", b"1"), ("a", b"2")]))


def test_bombs_are_refused(tmp_path):
    path = archive(tmp_path / "a.zip", [("a", bytes(200 << 20))], zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(WeightsError, match="it would unpack to more than 50 times its size"):
        Archive(path)


def test_a_bomb_that_claims_to_be_small_is_refused(tmp_path):
    path = archive(tmp_path / "a.zip", [("a", bytes(200 << 20))], zipfile.ZIP_DEFLATED)
    patched(path, struct.pack("<I", 200 << 20), struct.pack("<I", 1000))
    with pytest.raises(WeightsError, match=r"a: its checksum is wrong|a: it is damaged"):
        Archive(path).read("a")


def test_sizes_that_differ_are_refused(tmp_path):
    path = archive(tmp_path / "a.zip", [("a", b"x" * 77)])
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    data[central + 24 : central + 28] = struct.pack("<I", 1 << 30)
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="claims two sizes, 77 and 1073741824 bytes"):
        Archive(path)


def test_a_member_that_is_elsewhere_is_refused(tmp_path):
    path = archive(tmp_path / "a.zip", [("aaaa", b"x" * 50), ("bbbb", b"y" * 50)])
    data = path.read_bytes()
    local = data.index(b"PK\x03\x04", 10)
    other_name = data[: local + 30] + b"cccc" + data[local + 34 :]
    path.write_bytes(other_name)
    with pytest.raises(WeightsError, match=r"bbbb: it is damaged .File name in directory 'bbbb' and header"):
        Archive(path).read("bbbb")
    central = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    overlapping = bytearray(data)
    overlapping[central + 42 : central + 46] = struct.pack("<I", 0)
    overlapping[central + 46 : central + 50] = b"aaab"
    path.write_bytes(overlapping)
    with pytest.raises(WeightsError, match=r"damaged zip|aaab: it is damaged|more than once"):
        Archive(path).read("aaab")


def test_members_over_each_other_are_refused(tmp_path):
    inner = archive(tmp_path / "inner.zip", [("b", b"y" * 50)]).read_bytes()
    inner = inner[: inner.index(b"PK\x01\x02")]
    path = archive(tmp_path / "a.zip", [("a", inner), ("b", b"y" * 50)])
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    data[central + 42 : central + 46] = struct.pack("<I", 31)  # the copy of b that lies inside a
    path.write_bytes(data)
    with contextlib.suppress(WeightsError):  # a zipfile of before 3.11.8 reads it: it is what its checksum says
        assert Archive(path).read("b") == b"y" * 50


def test_damage_is_noticed(tmp_path):
    path = patched(archive(tmp_path / "a.zip", [("a", b"x" * 77)]), b"xxxx", b"xyxx")
    with pytest.raises(WeightsError, match="a: its checksum is wrong"):
        Archive(path).read("a")
    path = archive(tmp_path / "b.zip", [("a", b"x" * 77)], zipfile.ZIP_DEFLATED)
    begin = 30 + len("a")  # behind the member's own header
    data = path.read_bytes()
    path.write_bytes(data[:begin] + b"\xff" + data[begin + 1 :])
    with pytest.raises(WeightsError, match="a: its compressed data is damaged"):
        Archive(path).read("a")


def test_encrypted_and_oddly_compressed_members_are_refused(tmp_path):
    path = archive(tmp_path / "a.zip", [("a", b"x" * 77)], zipfile.ZIP_LZMA)
    with pytest.raises(WeightsError, match=r"compressed in an unknown way \(14\)"):
        Archive(path)
    path = archive(tmp_path / "b.zip", [("a", b"x" * 77)])
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="the member 'a' is encrypted"):
        Archive(path)
    empty = archive(tmp_path / "c.zip", [])
    with pytest.raises(WeightsError, match=r"1 to .* members, it has 0"):
        Archive(empty)
