"""safetensors: what its own library writes is read, and every lie of a header is refused."""

import json
import struct

import numpy as np
import pytest

from cnnjax.pretrained import WeightsError, open_file, save


def write(path, header, payload=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + payload)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_files_of_its_own_library_are_read(tmp_path):
    library = pytest.importorskip("safetensors.torch")
    torch = pytest.importorskip("torch")
    types = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    state = {name: torch.tensor([[0, 1, 2], [3, 4, 100]]).to(getattr(torch, name)) for name in types}
    state |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}
    library.save_file(state, tmp_path / "a", metadata={"format": "pt"})
    found = open_file(tmp_path / "a").tensors
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        values = found[name].read()
        assert values.dtype.name == str(tensor.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(values.astype(np.float64), tensor.double().numpy())


def test_its_own_library_reads_what_save_writes(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    variables = {
        "params": {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.float16([1])},
        "batch_stats": {"a": {"mean": np.ones(5, np.float64)}, "s": np.float32(3)},
    }
    save(variables, tmp_path / "a")
    found = library.load_file(tmp_path / "a")
    assert {name: value.dtype.name for name, value in found.items()} == {
        "params/a/kernel": "float32",
        "params/b": "float16",
        "batch_stats/a/mean": "float64",
        "batch_stats/s": "float32",
    }
    np.testing.assert_array_equal(found["params/a/kernel"], variables["params"]["a"]["kernel"])
    assert int.from_bytes((tmp_path / "a").read_bytes()[:8], "little") % 8 == 0, "the arrays are not aligned"


@pytest.mark.parametrize(
    ("header", "payload", "message"),
    [
        ({"a": entry(shape=(10**12,), offsets=(0, 4 * 10**12))}, 8, "a: claims 4000000000000 bytes, the file has 8"),
        ({"a": entry(shape=(3,))}, 8, "a: claims 12 bytes"),
        ({"a": entry(shape=(1,))}, 8, "a: expected 4 bytes, its offsets are 0 and 8"),
        ({"a": entry(offsets=(8, 0))}, 8, "its offsets are 8 and 0"),
        ({"a": entry(offsets=(-8, 0))}, 8, "its offsets are -8 and 0"),
        ({"a": entry(offsets=(8, 16))}, 8, "its offsets are 8 and 16"),
        ({"a": entry(offsets=(0, 8, 9))}, 8, "two offsets"),
        ({"a": entry(offsets=(0.0, 8))}, 8, "two offsets"),
        ({"a": entry(shape=(-2,))}, 8, "expected a shape"),
        ({"a": entry(shape=(True, 2))}, 8, "expected a shape"),
        ({"a": entry(shape=(1,) * 9)}, 8, "expected a shape of at most 8 sizes"),
        ({"a": entry(dtype="F33")}, 8, "expected one of F64, .* got F33"),
        ({"a": entry(dtype=["F32"])}, 8, "expected one of"),
        ({"a": entry() | {"more": 1}}, 8, "expected dtype, shape and data_offsets"),
        ({"a": [1]}, 8, "expected dtype, shape and data_offsets"),
        ({"a" * 2000: entry()}, 8, "name of 2000 characters"),
        ({"a": entry(), "b": entry()}, 8, "overlap or leave a gap"),
        ({"a": entry(), "b": entry(offsets=(12, 20))}, 20, "overlap or leave a gap"),
        ({"a": entry()}, 9, "its tensors end at byte 8, the file at 9"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{}}', 8, "more than once"),
        (b'{"a":' + b"[" * 100_000 + b"}", 0, "its header is damaged"),
        (b'{"a":' + b"9" * 10_000 + b"}", 0, "its header is damaged"),
        (b'{"a"', 0, "its header is damaged"),
        (b'{"\xff": 1}', 0, "its header is damaged"),
    ],
)
def test_headers_that_lie_are_refused(header, payload, message, tmp_path):
    path = write(tmp_path / "a", header, bytes(payload))
    with pytest.raises(WeightsError, match=message) as error:
        open_file(path)
    assert str(error.value).startswith(f"{path}: ")
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("length", [0, 1, 2**63, 2**64 - 1, 1000])
def test_a_header_longer_than_the_file_is_refused(length, tmp_path):
    path = write(tmp_path / "a", {"a": entry()}, bytes(8), length)
    with pytest.raises(WeightsError, match=r"not a file of weights that is known|its header claims"):
        open_file(path)
