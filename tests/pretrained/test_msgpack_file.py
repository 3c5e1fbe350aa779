"""Flax's msgpack files: what Flax writes is read, and nothing else."""

import jax.numpy as jnp
import ml_dtypes
import msgpack
import numpy as np
import pytest
from flax import serialization

from cnnjax.pretrained import WeightsError, open_file


def pack(value) -> bytes:
    return msgpack.Packer().pack(value)


def test_trees_of_flax_are_read(tmp_path):
    tree = {
        "params": {"conv": {"kernel": np.random.default_rng(0).standard_normal((3, 3, 2, 4)).astype(np.float32)}},
        "list": [np.float16([1, 2]), {"deep": jnp.arange(3, dtype=jnp.bfloat16)}],
        "scalar": np.float64(2.5),
        "many": {str(n): np.full((n,), n, np.int32) for n in range(40)},
        "step": 3,
        "negative": -70000,
        "rate": 0.5,
        "name": "x" * 300,
        "none": None,
        "yes": True,
    }
    (tmp_path / "a").write_bytes(serialization.msgpack_serialize(tree))
    file = open_file(tmp_path / "a")
    found = {name: tensor.read() for name, tensor in file.tensors.items()}
    assert len(found) == 1 + 2 + 1 + 40
    np.testing.assert_array_equal(found["params/conv/kernel"], tree["params"]["conv"]["kernel"])
    np.testing.assert_array_equal(found["list/0"], np.float16([1, 2]))
    np.testing.assert_array_equal(found["list/1/deep"], np.arange(3).astype(ml_dtypes.bfloat16))
    assert found["list/1/deep"].dtype == ml_dtypes.bfloat16
    assert found["scalar"] == 2.5
    assert found["many/39"].tolist() == [39] * 39
    assert file.notes == ("Entries that are not arrays were not read: name, negative, none, rate, step, yes.",)


def array(shape=(2,), dtype="float32", payload=bytes(8), code=1, extra=b""):
    return msgpack.ExtType(code, pack((shape, dtype, payload)) + extra)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": array(shape=(10**12,))}, "a: claims 4000000000000 bytes, the file has 8 for it"),
        ({"a": array(shape=(1,))}, "a: expected 4 bytes for float32"),
        ({"a": array(shape=(-2,))}, "expected a shape"),
        ({"a": array(shape=(2.0,))}, "expected a shape, the name of a type"),
        ({"a": array(shape=(1,) * 9)}, "a shape of at most 8 sizes"),
        ({"a": array(dtype="object")}, "the name of a type of numbers"),
        ({"a": array(payload=None)}, "the name of a type of numbers"),
        ({"a": array(extra=b"\xc0")}, "a: it is damaged: expected the file to end with its tree"),
        ({"a": array(code=2)}, "found something else .type 2."),
        ({"a": msgpack.ExtType(1, b"\xc0")}, "expected an array's shape, type and bytes"),
        ({"a": msgpack.Timestamp(0)}, "something else .type 255."),
        ({1: array()}, "a key that is not a string"),
        ({"a" * 2000: array()}, "a name in it has 2000 bytes"),
        ({"a": 1}, "there are no arrays in it"),
        ({"a": array(), "b": {"c": {}}, "a/": [array()]}, None),
    ],
    ids=str,
)
def test_trees_that_lie_are_refused(content, message, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(pack(content))
    if message is None:
        assert list(open_file(path).tensors) == ["a", "a//0"]
        return
    with pytest.raises(WeightsError, match=message):
        open_file(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xdf\xff\xff\xff\xff", "it ends in the middle"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff" + b"\xc0" * 1_100_000, "it ends in the middle"),
        (b"\x81\xa1a\xdd" + (1_100_000).to_bytes(4, "big") + b"\xc0" * 1_100_000, "more than 1000000 items"),
        (b"\x81\xa1a" + b"\x91" * 100_000, "nested more than 32 deep"),
        (b"\x81\xa1a\xc1", "not msgpack"),
        (b"\x81\xa1a\xc6\xff\xff\xff\xff", "it ends in the middle"),
        (b"\x81\xa1a\xc9\xff\xff\xff\xff\x01", "it ends in the middle"),
        (b"\x81\xa1\xffa", "not plain text"),
        (pack({"a": array()}) + b"x", "1 bytes follow"),
        (b"\x82\xa1a" + pack(array()) + b"\xa1a" + pack(array()), "more than once"),
    ],
)
def test_damaged_trees_are_refused(data, message, tmp_path):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(WeightsError, match=message):
        open_file(tmp_path / "a")
