"""Opening a file: its content decides, and what is no file of weights is refused in one line."""

import hashlib
import os
import pathlib

import numpy as np
import pytest
from flax import serialization

from cnnjax.pretrained import WeightsError, open_file, save
from cnnjax.pretrained.readers import checked_size
from cnnjax.pretrained.tensors import check_sha256

ONE = {"params": {"a": np.ones((2, 3), np.float32)}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"hello", "not a file of weights that is known"),
        (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00.", "a plain pickle, which can run anything"),
        (b"PK\x03\x04" + bytes(40), "a damaged zip archive"),
        (b"\x80", "there are no arrays in it"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), r"it is a picture \(PNG\), not a file of weights"),
        (b"\x81\x01\x01", "a map in it has a key that is not a string"),
        (b"\x40" + bytes(7) + b"{" * 80, "its header is damaged"),
    ],
    ids=["empty", "text", "pickle", "zip", "empty map", "picture", "numbered map", "safetensors"],
)
def test_what_is_no_file_of_weights_is_refused(content, message, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as error:
        open_file(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_the_name_decides_nothing(tmp_path):
    save(ONE, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").rename(tmp_path / "a.pth")
    (tmp_path / "b.h5").write_bytes(serialization.to_bytes(ONE))
    assert open_file(tmp_path / "a.pth").format == "safetensors"
    assert open_file(tmp_path / "b.h5").format == "msgpack"


def test_what_can_not_be_opened_is_said_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(WeightsError, match=r"none: No such file or directory\."):
        open_file(tmp_path / "none")
    (tmp_path / "folder").mkdir()
    with pytest.raises(WeightsError, match="not of one Orbax checkpoint"):
        open_file(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match="neither a file nor a folder"):
        open_file(tmp_path / "pipe")
    save(ONE, tmp_path / "locked")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "open", refuse)
    with pytest.raises(WeightsError, match=r"locked: Permission denied\."):
        open_file(tmp_path / "locked")


def test_a_file_that_shrinks_after_it_was_opened_is_an_error(tmp_path):
    path = tmp_path / "a"
    save(ONE, path)
    tensor = open_file(path).tensors["params/a"]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(WeightsError, match=f"{path}: it is shorter than when it was opened"):
        tensor.read()
    path.unlink()
    with pytest.raises(WeightsError, match=f"{path}: No such file"):
        tensor.read()


def test_a_pinned_hash_catches_one_changed_bit(tmp_path):
    path = tmp_path / "a"
    save(ONE, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    check_sha256(path, digest)
    check_sha256(path, digest[:8].upper())
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(WeightsError, match=f"its sha256 is .*, expected {digest}"):
        check_sha256(path, digest)
    with pytest.raises(WeightsError, match="expected a sha256 of 8 to 64 hexadecimal digits"):
        check_sha256(path, "abc")


def test_absurd_claims_are_refused_before_they_cost_anything():
    assert checked_size("a", (2, 3), 4, 24) == 24
    for shape in ((2, 3, 1, 1, 1, 1, 1, 1, 1), (-1,), (2.0,), (True,), ("2",), (2**70,), (2, 4)):
        with pytest.raises(WeightsError, match="a: "):
            checked_size("a", shape, 4, 24)
    with pytest.raises(WeightsError, match="name of 2000 characters"):
        checked_size("a" * 2000, (), 4, 24)
