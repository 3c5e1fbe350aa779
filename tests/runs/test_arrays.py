import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.flax
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cnnjax.runs.arrays import from_bytes, to_pieces

DTYPES = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"]
DTYPES += ["bool", "complex64", ">f4", ">i8"]
arrays = hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))


def as_bytes(flat):
    return b"".join(bytes(piece) for piece in to_pieces(flat))


@given(st.dictionaries(st.text('abc/é"\\', min_size=1, max_size=8), arrays, max_size=6))
def test_arrays_come_back_and_the_formats_own_library_reads_them(flat):
    content = as_bytes(flat)
    assert content == as_bytes(dict(reversed(flat.items())))
    back = from_bytes(np.frombuffer(content, np.uint8).copy())
    theirs = safetensors.numpy.load(content)
    assert back.keys() == flat.keys() == theirs.keys()
    for name, value in flat.items():
        for found in (back[name], theirs[name]):
            assert (found.dtype, found.shape) == (value.dtype.newbyteorder("<"), value.shape)
            assert found.tobytes() == value.astype(value.dtype.newbyteorder("<")).tobytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_short_floats_come_back_bit_for_bit(dtype, tmp_path):
    dtype = np.dtype(getattr(ml_dtypes, dtype))
    values = np.arange(256**dtype.itemsize, dtype=f"u{dtype.itemsize}").view(dtype)  # each of them, NaN's among them
    content = as_bytes({"a": values, "b": values[:0], "c": values[3]})
    back = from_bytes(np.frombuffer(content, np.uint8).copy())
    assert [v.dtype for v in back.values()] == [dtype] * 3
    assert back["a"].tobytes() == values.tobytes()
    assert (back["b"].shape, back["c"].shape) == ((0,), ())
    if dtype.itemsize == 2:
        (tmp_path / "a").write_bytes(content)
        theirs = safetensors.flax.load_file(tmp_path / "a")["a"]
        assert theirs.dtype == jnp.bfloat16
        assert np.asarray(theirs).tobytes() == values.tobytes()


def test_arrays_in_another_order_of_memory_and_other_types():
    value = np.arange(24).reshape(2, 3, 4)
    for view in (value.T, value[:, ::-1], value[1:, :, 2]):
        back = from_bytes(np.frombuffer(as_bytes({"a": view}), np.uint8).copy())["a"]
        np.testing.assert_array_equal(back, view)
    for wrong in (np.array("text"), np.array(None), np.array(1j)):
        with pytest.raises(ValueError, match=r"a is .*, expected one of float64"):
            as_bytes({"a": wrong})
