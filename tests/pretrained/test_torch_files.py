"""Files of torch.save in both forms: every type, view and nesting is what torch itself reads back."""

import argparse
import collections
import zipfile

import ml_dtypes
import numpy as np
import pytest

from cnnjax.pretrained import WeightsError, open_file
from tests.optional import torch

FORMS = pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])


def as_numpy(tensor):
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.float().numpy().astype(ml_dtypes.bfloat16)
    return tensor.numpy()


def check(path, expected):
    file = open_file(path)
    assert file.format == "torch"
    assert list(file.tensors) == list(expected)
    for name, tensor in expected.items():
        found, values = file.tensors[name], as_numpy(tensor)
        assert (found.shape, found.dtype) == (values.shape, values.dtype), name
        np.testing.assert_array_equal(found.read(), values, err_msg=name)
    return file


@FORMS
def test_every_type_is_read_as_it_is(new, tmp_path):
    numbers = torch.tensor([[-3, 0, 1], [2, 5, 100]])
    types = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    state = {name: numbers.to(getattr(torch, name)) for name in types}
    state |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "parameter": torch.nn.Parameter(torch.ones(2))}
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    check(tmp_path / "a.pth", state)


@FORMS
def test_views_are_read_through_their_offsets_and_strides(new, tmp_path):
    base = torch.arange(60.0).reshape(3, 4, 5)
    state = {
        "base": base,
        "transposed": base.permute(2, 0, 1),
        "slice": base[1:, ::2, 3],
        "row": base[2, 3],
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "brain": torch.arange(12).bfloat16().reshape(3, 4).t(),
        "last": base.reshape(-1)[59:],
    }
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    file = check(tmp_path / "a.pth", state)
    assert all(tensor.read().flags.c_contiguous for tensor in file.tensors.values())


@FORMS
@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net", "ema"])
def test_the_state_is_found_where_training_scripts_put_it(new, key, tmp_path):
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(torch.ones(1, 1, 5, 5)).sum().backward()
    optimizer.step()
    checkpoint = {"epoch": 3, "best": torch.tensor(0.5), "optimizer": optimizer.state_dict(), key: net.state_dict()}
    if key == "ema":
        del checkpoint["best"]
    torch.save(checkpoint, tmp_path / "a.tar", _use_new_zipfile_serialization=new)
    file = check(tmp_path / "a.tar", net.state_dict())
    assert f"The state is under '{key}', beside epoch," in file.notes[0]


@FORMS
def test_tensors_beside_the_state_are_listed(new, tmp_path):
    net = torch.nn.Linear(2, 3)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    content = {
        "model": net.state_dict(),
        "ema": {"weight": torch.zeros(3, 2), "bias": torch.zeros(3)},
        "again": net.state_dict(),
        "extra.w": torch.ones(5, dtype=torch.int32),
        "optimizer": optimizer.state_dict(),
        "lists": [torch.ones(1), ({"x": torch.ones(2).half()},)],
    }
    content["lists"].append(content["lists"])  # a ring
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    file = check(tmp_path / "a.pth", net.state_dict())
    found = {tensor.name: (tensor.shape, tensor.dtype.name) for tensor in file.left_out}
    assert found == {
        "ema.weight": ((3, 2), "float32"),
        "ema.bias": ((3,), "float32"),
        "again.weight": ((3, 2), "float32"),
        "again.bias": ((3,), "float32"),
        "extra.w": ((5,), "int32"),
        **{f"optimizer.state.{n}.step": ((), "float32") for n in (0, 1)},
        **{f"optimizer.state.0.{name}": ((3, 2), "float32") for name in ("exp_avg", "exp_avg_sq")},
        **{f"optimizer.state.1.{name}": ((3,), "float32") for name in ("exp_avg", "exp_avg_sq")},
        "lists.0": ((1,), "float32"),
        "lists.1.0.x": ((2,), "float16"),
    }
    assert {tensor.reason for tensor in file.left_out if tensor.name.startswith("optim")} == {
        "under 'optimizer', beside the state under 'model'"
    }


@FORMS
@pytest.mark.parametrize("prefix", ["", "module."])
def test_two_tensors_of_one_name_on_two_levels_are_refused(prefix, new, tmp_path):
    content = {"state_dict": {f"{prefix}fc.weight": torch.ones(2, 2)}, "fc.weight": torch.zeros(2, 2)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(WeightsError, match=r"fc\.weight is in it under 'state_dict' and beside it; keep one of them"):
        open_file(tmp_path / "a.pth")


def test_an_entry_that_is_no_tensor_is_said(tmp_path):
    torch.save({"weight": torch.ones(2), "_extra_state": {"a": 1, "b": torch.ones(3)}}, tmp_path / "a.pth")
    file = open_file(tmp_path / "a.pth")
    assert file.notes == ("Entries that are not tensors were not read: _extra_state.",)
    assert [(tensor.name, tensor.reason) for tensor in file.left_out] == [
        ("_extra_state.b", "inside '_extra_state', which is not a tensor")
    ]


@FORMS
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_newer_pickles_do_too(new, protocol, tmp_path):
    state = torch.nn.Linear(2, 3).state_dict()
    torch.save(state, tmp_path / "a.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=new)
    check(tmp_path / "a.pth", state)


@FORMS
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.nn.Linear(2, 2), "it would construct 'torch.nn.modules.linear.Linear'"),
        ({"epoch": 3}, "there is no state_dict in it"),
        ([torch.ones(2)], "there is no state_dict in it"),
        ({1: torch.ones(2)}, "expected names of tensors, found the number 1"),
        (torch.ones(2), "there is no state_dict in it"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "it would construct 'torch.ComplexFloatStorage'"),
        (
            {"a": torch.ones(4).expand(3, 4)},
            r"a: it is a broadcast view, 4 numbers seen as \[3, 4\]; save it with \.cont",
        ),
        ({"a": torch.ones(1).expand(2**20, 2**20)}, "a: it is a broadcast view, 1 numbers seen as"),
        ({"a": torch.ones(9).as_strided((5, 5), (1, 1))}, "a: claims 100 bytes, the file has 36 for it"),
    ],
    ids=["module", "no tensors", "list", "numbered", "tensor", "complex", "expanded", "immense", "overlapping"],
)
def test_what_is_no_state_dict_is_refused(content, message, new, tmp_path):
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(WeightsError, match=message):
        open_file(tmp_path / "a.pth")


def test_a_torchscript_program_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\x02}.")
        archive.writestr("net/constants.pkl", b"\x80\x02).")
    with pytest.raises(WeightsError, match="TorchScript program"):
        open_file(tmp_path / "a.pt")


def rewritten(path, change):
    """Write an archive of torch anew, a member at a time; `change` gives each one's new name and bytes, or None."""
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for member in filter(None, (change(*member) for member in members)):
            archive.writestr(*member)


def test_archives_that_lie_are_refused(tmp_path):
    path = tmp_path / "a.pth"
    cases = {
        "the numbers of storage '0' are missing": lambda name, data: None if name.endswith("data/0") else (name, data),
        "its storage claims 6 numbers, the file has 20 bytes": lambda name, data: (
            name,
            data[:20] if name.endswith("data/0") else data,
        ),
        "neither of torch .* nor of Keras": lambda name, data: (name.replace("data.pkl", "data.txt"), data),
        "expected numbers in little-endian order": lambda name, data: (
            name,
            b"big" if name.endswith("byteorder") else data,
        ),
    }
    for message, change in cases.items():
        torch.save({"a": torch.ones(2, 3)}, path)
        rewritten(path, change)
        with pytest.raises(WeightsError, match=message):
            open_file(path)
    torch.save({"a": torch.ones(2, 3)}, path)
    rewritten(path, lambda name, data: (name, data))
    np.testing.assert_array_equal(open_file(path).tensors["a"].read(), np.ones((2, 3)))


def test_deflated_archives_are_read(tmp_path):
    path, state = tmp_path / "a.pth", {"a": torch.randn(20, 30), "b": torch.randn(5)}
    torch.save(state, path)
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in members:
            archive.writestr(*member)
    check(path, state)


def test_a_tensor_outside_its_storage_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(2, 3)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    # Its offset, 0, stands before its shape, (2, 3).
    place = data.index(b"K\x00K\x02K\x03\x86")
    path.write_bytes(data[: place + 1] + b"\x01" + data[place + 2 :])
    with pytest.raises(WeightsError, match="a: it ends 1 numbers behind its storage"):
        open_file(path)
    path.write_bytes(data[:-4])
    with pytest.raises(WeightsError, match="has 6 numbers in 20 bytes, expected 6"):
        open_file(path)
    path.write_bytes(data + b"more")
    with pytest.raises(WeightsError, match="expected the file to end with its last storage, 4 bytes follow"):
        open_file(path)


@FORMS
@pytest.mark.parametrize("inside", [False, True])
def test_what_is_not_a_tensor_is_opaque_beside_the_state_and_in_it(inside, new, tmp_path):
    parameter = torch.nn.Parameter(torch.arange(3.0))
    parameter.tag = "its attribute"
    odd = {
        "counter": collections.Counter("aab"),
        "set": {1, 2},
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "bytes": bytearray(b"abc"),
        "scalar": np.float32(3),
        "array": np.arange(3),
        "arguments": argparse.Namespace(lr=0.1),
        "default": collections.defaultdict(list, a=[1]),
        "complex": torch.ones(2, dtype=torch.complex64) if not inside else None,
    }
    state = {"weight": torch.ones(2, 3), "parameter": parameter}
    content = {**state, **odd} if inside else {"state_dict": state, **odd}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    file = check(tmp_path / "a.pth", state)
    assert any("counter" in note and "arguments" in note for note in file.notes)


def test_a_whole_module_beside_its_name_says_what_to_save(tmp_path):
    torch.save({"model": torch.nn.Linear(2, 2), "epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"Under 'model' is a 'torch\.nn\.modules\.linear\.Linear'.*save its"):
        open_file(tmp_path / "a.pth")
