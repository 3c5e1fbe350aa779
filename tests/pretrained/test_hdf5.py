"""What h5py writes, in whatever form it writes it, is read as it is."""

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cnnjax.pretrained.readers import CODES
from cnnjax.pretrained.readers.hdf5 import read_hdf5

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
            assert (found.shape, found.code) == (child[0].shape, CODES[child[0].dtype.name])
            assert values_of(found, name) == child[0].tobytes()


def values_of(dataset, name="x"):
    return b"".join(bytes(piece) for piece in dataset.tensor(name).pieces())


@given(tree=st.dictionaries(NAMES, TREES, max_size=7), libver=st.sampled_from([None, "latest"]))
def test_trees_that_h5py_writes(tmp_path_factory, tree, libver):
    path = tmp_path_factory.mktemp("tree") / "tree.h5"
    with h5py.File(path, "w", libver=libver) as file:
        write(file, tree)
    check(read_hdf5(path), tree)


@given(plain=TEXTS, fixed=TEXTS, one=st.text("abc é中", max_size=30))
def test_texts_that_h5py_writes(tmp_path_factory, plain, fixed, one):
    path = tmp_path_factory.mktemp("texts") / "texts.h5"
    fixed = [text.encode() for text in fixed]
    with h5py.File(path, "w") as file:
        file.attrs["name_plain"] = np.array(plain, dtype=h5py.string_dtype())
        file.attrs["name_fixed"] = np.array(fixed, dtype=f"S{max(map(len, fixed), default=1) or 1}")
        file.attrs["name_one"] = one
        file.attrs["name_number"] = 3.5
        file.attrs["other"] = "not asked for"
    texts = read_hdf5(path).texts
    assert texts == {"name_plain": plain, "name_fixed": [text.decode() for text in fixed], "name_one": [one]}


def test_groups_of_many_members_and_headers_of_many_parts(tmp_path):
    path = tmp_path / "many.h5"
    with h5py.File(path, "w") as file:
        for n in range(1500):  # a tree of links of more than one level
            file.create_group(f"group_{n}").attrs["name"] = f"layer {n}"
        for n in range(40):  # and a header that is continued
            file.attrs[f"name{n}"] = [b"x" * 1500] * 20
    root = read_hdf5(path)
    assert len(root.children) == 1500
    assert root.children["group_1234"].texts == {"name": ["layer 1234"]}
    assert len(root.texts) == 40
    assert root.texts["name39"] == ["x" * 1500] * 20


@pytest.mark.parametrize("options", [{}, {"track_order": True}, {"libver": "latest"}], ids=str)
def test_other_forms_of_groups(tmp_path, options):
    path = tmp_path / "newer.h5"
    with h5py.File(path, "w", **options) as file:
        group = file.create_group("group", track_order=True)
        for n in range(20):
            group[f"x{n}"] = np.arange(n + 1)
    root = read_hdf5(path)
    for n in range(20):
        assert values_of(root.group("group").children[f"x{n}"]) == np.arange(n + 1).tobytes()
    assert root.group("x") is None
    assert root.group("group").group("x1") is None


def test_a_dataset_in_many_chunks(tmp_path):
    values = np.random.default_rng(0).normal(size=(70, 33, 5)).astype("f4")
    with h5py.File(tmp_path / "chunks.h5", "w") as file:
        options = {"compression": "gzip", "shuffle": True, "fletcher32": True}
        file.create_dataset("x", data=values, chunks=(8, 8, 2), **options)
        file.create_dataset("y", data=values[:2], chunks=(2, 33, 5))
    root = read_hdf5(tmp_path / "chunks.h5")
    assert values_of(root.children["x"]) == values.tobytes()
    assert values_of(root.children["y"]) == values[:2].tobytes()


def test_compact_values(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((3,))
        made = h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, space, plist)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([1, 2, 3], "f4"))
    root = read_hdf5(tmp_path / "a.h5")
    assert values_of(root.children["x"]) == np.array([1, 2, 3], "<f4").tobytes()
