"""HDF5 files that lead elsewhere, claim too much or contradict themselves are refused, in one line."""

import h5py
import numpy as np
import pytest

from cnnjax.pretrained import WeightsError, open_file

PLACE = "layers/dense/vars/0"  # where Keras has a tensor


@pytest.fixture
def path(tmp_path):
    return tmp_path / "evil.h5"


def refused(path, match):
    with pytest.raises(WeightsError, match=match) as caught:
        open_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def values_of(path):
    """Return the values of the one tensor of a file, written as `layers/dense/vars/0`."""
    (tensor,) = open_file(path).tensors.values()
    return tensor.read()


def plain(path, values=None):
    """Write one dataset and return the file's bytes."""
    with h5py.File(path, "w") as file:
        file[PLACE] = np.arange(100, dtype="f4") if values is None else values
    return bytearray(path.read_bytes())


def changed(path, content, old, new):
    """Replace the one place where `old` is."""
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


def test_external_links(path, tmp_path):
    plain(tmp_path / "other.h5")
    with h5py.File(path, "w") as file:
        file["secret"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
    refused(path, r"'secret' is an external link into another file, which is not followed")


@pytest.mark.parametrize("target", ["/x", "/nowhere", "../../x"])
@pytest.mark.parametrize("libver", [None, "latest"])
def test_soft_links(path, target, libver):
    with h5py.File(path, "w", libver=libver) as file:
        file["x"] = np.arange(3)
        file["soft"] = h5py.SoftLink(target)
    refused(path, "'soft' is a soft link, which is not followed")


def test_hard_links_that_make_a_ring(path):
    with h5py.File(path, "w") as file:
        inner = file.create_group("a").create_group("b")
        inner["back"] = file["a"]
    refused(path, "'/a/b/back' is reached twice")


def test_more_objects_than_any_net_has_are_not_visited(path):
    with h5py.File(path, "w") as file:
        for n in range(8001):
            file.create_group(f"g{n}")
    refused(path, "more than 8,000 groups and datasets")


def test_a_dataset_with_two_names(path):
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(3)
        file["y"] = file["x"]
    refused(path, "'/y' is reached twice")


def test_virtual_datasets(path, tmp_path):
    plain(tmp_path / "other.h5")
    layout = h5py.VirtualLayout(shape=(100,), dtype="f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", shape=(100,))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("x", layout)
    refused(path, "virtual dataset, whose values lie in other files, is not read")


def test_values_in_another_file(path, tmp_path):
    (tmp_path / "values").write_bytes(bytes(400))
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (100,), "f4", external=[(str(tmp_path / "values"), 0, 400)])
    refused(path, "with its values in another file is not read")


@pytest.mark.parametrize("shape", [(2**40,), (2**20, 2**20, 2**20), (10**6, 10**6)])
def test_shapes_that_were_never_written(path, shape):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", shape, "f4", chunks=(64,) * len(shape))
    refused(path, r"evil.h5: /x: (its values were never written|claims|chunks)")


def test_a_shape_larger_than_its_bytes(path):
    content = plain(path)
    changed(path, content, (100).to_bytes(8, "little") * 2, (2**50).to_bytes(8, "little") * 2)
    refused(path, "damaged HDF5 .*invalid dataset size|claims")


def test_a_shape_and_a_size_larger_than_the_file(path):
    content = plain(path)
    content = content.replace((100).to_bytes(8, "little"), (2**50).to_bytes(8, "little"))
    changed(path, content, (400).to_bytes(8, "little"), (2**52).to_bytes(8, "little"))
    refused(path, "damaged HDF5 .*invalid dataset size|lies outside of the file")


def test_chunks_that_unpack_to_much_more(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.zeros(50_000_000, "f4"), chunks=(5_000_000,), compression="gzip")
    assert path.stat().st_size < 1_000_000
    refused(path, r"/x: claims 200,000,000 bytes, its chunks have")


def test_chunks_that_lie_of_their_size(path):
    with h5py.File(path, "w") as file:
        file.create_dataset(PLACE, data=np.arange(1000, dtype="f4"), chunks=(1000,), compression="gzip")
    np.testing.assert_array_equal(values_of(path), np.arange(1000))
    content = bytearray(path.read_bytes())
    begin = content.index(b"\x78\x5e") if b"\x78\x5e" in content else content.index(b"\x78\x9c")
    content[begin + 40] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"dense/0: damaged HDF5 \(.*filter returned failure"):
        values_of(path)


def test_unknown_filters(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(1000), compression="lzf")
    refused(path, r"HDF5's filter 32000 are not read; expected gzip")


def test_two_datasets_on_the_same_bytes(path):
    with h5py.File(path, "w") as file:
        file["x"], file["y"] = np.arange(100, dtype="f4"), np.arange(100, 200, dtype="f4")
        x, y = (file[name].id.get_offset() for name in "xy")
    content = bytearray(path.read_bytes())
    # An address and its size are side by side in a layout.
    size = (400).to_bytes(8, "little")
    changed(path, content, y.to_bytes(8, "little") + size, (x + 4).to_bytes(8, "little") + size)
    refused(path, "/x and /y lie on the same bytes")


def test_the_other_byte_order_is_not_guessed(path):
    plain(path, np.arange(5, dtype=">f4"))
    refused(path, r"/vars/0: >?f(loat32|4) that is not little-endian, or in a form of its own, is not read")


@pytest.mark.parametrize("values", [np.array(["a"], h5py.string_dtype()), np.zeros(2, "c8")])
def test_values_that_are_no_numbers(path, values):
    plain(path, values)
    refused(path, "dense/0: expected numbers, got")


def test_named_types_are_not_followed(path):
    with h5py.File(path, "w") as file:
        file["kind"] = np.dtype("f4")
        file.create_dataset("x", (3,), file["kind"])
    refused(path, "/kind' is neither a group nor a dataset")


def test_cut_off_files(path):
    content = plain(path)
    for length in (*range(9, 200, 13), len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        refused(path, "damaged HDF5|cut off|is not read|ends inside")


def test_a_header_that_goes_on_for_ever(path):
    # Attributes enough for a continuation, which is then made to lead to itself.
    with h5py.File(path, "w") as file:
        for n in range(30):
            file.attrs[f"a{n}"] = "x" * 50
    content = path.read_bytes()
    for begin in range(0, len(content) - 24, 8):
        if content[begin : begin + 4] == b"\x10\0\x10\0":
            loop = (
                content[: begin + 8] + begin.to_bytes(8, "little") + (24).to_bytes(8, "little") + content[begin + 24 :]
            )
            path.write_bytes(loop)
            refused(path, "damaged HDF5 .incorrect|damaged HDF5 .Unable|is not a Keras file")
            return
    pytest.fail("no continued header in the file")
