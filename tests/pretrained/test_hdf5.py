"""Our reader of HDF5 against the library that writes it."""

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cnnjax.pretrained.hdf5 import Dataset, Group, read_hdf5
from cnnjax.pretrained.hdf5_bytes import checksum
from cnnjax.pretrained.tensors import WeightsError

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)
ARRAYS = hnp.arrays(
    st.sampled_from(["<f2", "<f4", "<f8", "<i1", "<i4", "<i8", "<u1", "<u4"]).map(np.dtype),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)
STORED = st.sampled_from([{}, {"compression": "gzip"}, {"shuffle": True, "compression": "gzip"}, {"fletcher32": True}])
TEXTS = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20), max_size=4)
TREES = st.recursive(st.tuples(ARRAYS, STORED), lambda tree: st.dictionaries(NAMES, tree, max_size=7), max_leaves=12)


def write(group, tree):
    for name, child in tree.items():
        if isinstance(child, dict):
            write(group.create_group(name), child)
        else:
            array, options = child
            group.create_dataset(name, data=array, **(options if array.size and array.ndim else {}))


def check(group, tree):
    assert set(group.children) == set(tree)
    for name, child in tree.items():
        found = group.children[name]
        if isinstance(child, dict):
            check(found, child)
        else:
            assert (found.shape, found.dtype) == (child[0].shape, child[0].dtype)
            np.testing.assert_array_equal(found.read(), child[0])
            assert found.read().tobytes() == child[0].tobytes()


def read(path, *attributes):
    return read_hdf5(path, attributes=attributes or ("",))


@given(tree=st.dictionaries(NAMES, TREES, max_size=7), libver=st.sampled_from([None, "latest"]))
def test_trees_that_h5py_writes(tmp_path_factory, tree, libver):
    path = tmp_path_factory.mktemp("tree") / "tree.h5"
    with h5py.File(path, "w", libver=libver) as file:
        write(file, tree)
    if libver is None or not uses_newer_forms(tree):
        check(read(path), tree)
    else:
        with pytest.raises(WeightsError, match="save the file again with h5py's defaults"):
            read(path)


def uses_newer_forms(tree):
    """Whether a tree in HDF5's newest version has chunks, whose indexes are other ones there."""
    if isinstance(tree, dict):
        return any(uses_newer_forms(child) for child in tree.values())
    array, options = tree
    return bool(options) and bool(array.size) and array.ndim > 0


@given(plain=TEXTS, fixed=TEXTS, one=st.text("abc é中", max_size=30))
def test_texts_that_h5py_writes(tmp_path_factory, plain, fixed, one):
    path = tmp_path_factory.mktemp("texts") / "texts.h5"
    fixed = [text.encode() for text in fixed]
    with h5py.File(path, "w") as file:
        file.attrs["plain"] = np.array(plain, dtype=h5py.string_dtype())
        file.attrs["fixed"] = np.array(fixed, dtype=f"S{max(map(len, fixed), default=1) or 1}")
        file.attrs["one"] = one
        file.attrs["number"] = 3.5
        file.attrs["truth"] = np.array([True])
        file.create_dataset("data", data=[1.0]).attrs["dtype"] = "bfloat16"
    root = read(path)
    assert root.texts == {"plain": plain, "fixed": [text.decode() for text in fixed], "one": [one]}
    assert root.children["data"].texts == {"dtype": ["bfloat16"]}
    assert read(path, "fix").texts.keys() == {"fixed"}


def test_groups_of_many_members_and_headers_of_many_parts(tmp_path):
    path = tmp_path / "many.h5"
    with h5py.File(path, "w") as file:
        for n in range(1500):  # a tree of links of more than one level
            file.create_group(f"group_{n}").attrs["name"] = f"layer {n}"
        for n in range(40):  # and a header that is continued
            file.attrs[f"names{n}"] = [b"x" * 1500] * 20
    root = read(path)
    assert len(root.children) == 1500
    assert root.children["group_1234"].texts == {"name": ["layer 1234"]}
    assert len(root.texts) == 40
    assert root.texts["names39"] == ["x" * 1500] * 20


@pytest.mark.parametrize("options", [{}, {"track_order": True}])
def test_groups_in_the_newer_form_are_read_while_they_are_small(tmp_path, options):
    path = tmp_path / "newer.h5"
    with h5py.File(path, "w", **options) as file:
        group = file.create_group("group", track_order=True)
        for n in range(6):
            group[f"x{n}"] = np.arange(n)
    root = read(path)
    for n in range(6):
        np.testing.assert_array_equal(root.group("group").children[f"x{n}"].read(), np.arange(n))


def test_groups_in_the_newer_form_are_refused_when_they_are_large(tmp_path):
    with h5py.File(tmp_path / "dense.h5", "w", libver="latest") as file:
        for n in range(20):
            file.create_group(f"x{n}")
    with pytest.raises(WeightsError, match="newer dense form"):
        read(tmp_path / "dense.h5")


def test_a_dataset_in_many_chunks(tmp_path):
    values = np.random.default_rng(0).normal(size=(70, 33, 5)).astype("f4")
    with h5py.File(tmp_path / "chunks.h5", "w") as file:
        options = {"compression": "gzip", "shuffle": True, "fletcher32": True}
        file.create_dataset("x", data=values, chunks=(8, 8, 2), **options)
        file.create_dataset("y", data=values[:2], chunks=(2, 33, 5))
    root = read(tmp_path / "chunks.h5")
    np.testing.assert_array_equal(root.children["x"].read(), values)
    np.testing.assert_array_equal(root.children["y"].read(), values[:2])


def test_compact_values_lie_in_the_header(tmp_path):
    with h5py.File(tmp_path / "compact.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((3,))
        made = h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, space, plist)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([1, 2, 3], "f4"))
    np.testing.assert_array_equal(read(tmp_path / "compact.h5").children["x"].read(), [1, 2, 3])


def test_a_part_of_a_file_and_bytes_are_read_alike(tmp_path):
    with h5py.File(tmp_path / "part.h5", "w") as file:
        file["x"] = np.arange(5)
    content = (tmp_path / "part.h5").read_bytes()
    (tmp_path / "whole").write_bytes(b"before" + content + b"after")
    inside = read_hdf5(tmp_path / "whole", attributes=(), extent=(6, len(content)))
    for root in (inside, read_hdf5(content, attributes=())):
        np.testing.assert_array_equal(root.children["x"].read(), np.arange(5))


def test_a_file_that_shrinks_after_it_was_opened(tmp_path):
    path = tmp_path / "shrinks.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(5000)
    x = read(path).children["x"]
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(WeightsError, match="shorter than when it was opened"):
        x.read()


def test_checksums_are_the_librarys(tmp_path):
    path = tmp_path / "newest.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["x"] = np.arange(3)
    content = bytearray(path.read_bytes())
    assert checksum(content[:44]) == int.from_bytes(content[44:48], "little")
    for place in (13, content.index(b"OHDR") + 20):  # in the superblock, in a header
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(WeightsError, match="checksum"):
            read(path)


def test_groups_are_told_from_datasets():
    inner, leaf = Group(), Dataset((), np.dtype("f4"), {}, b"", (0, 0), None)
    outer = Group({"inner": inner, "leaf": leaf})
    assert outer.group("inner") is inner
    assert outer.group("leaf") is None
    assert outer.group("other") is None
