"""Pickles as data: nothing that a file names is ever called, no claim is believed, what ends the child is a line."""

import collections
import io
import os
import pathlib
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from cnnjax.pretrained import WeightsError, open_file
from cnnjax.pretrained.readers import child
from cnnjax.pretrained.readers.torch_pickles import unpickle

# A tensor of six numbers, as torch writes it.
TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQ"
    b"K\x00K\x06\x85K\x01\x85\x89NtR"
)


class Evil:
    """Runs a command when Python unpickles it."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def opened(path, data):
    """Open a file of torch whose description is this pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/data/0", np.arange(6, dtype="f4").tobytes())
    return open_file(path)


def beside_a_tensor(value, protocol):
    """Return the pickle of a tensor `w` and a value beside it."""
    data = pickle.dumps(value, protocol=protocol)
    begin = 11 if data[2] == 0x95 else 2  # behind the protocol and the frame
    return b"\x80\x04}(X\x01\0\0\0w" + TENSOR + b"X\x01\0\0\0b" + data[begin:-1] + b"u."


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_are_what_python_makes_of_them(protocol):
    value = {
        "numbers": [0, -1, 255, 70000, -(2**40), 2**100, 1.5, float("inf")],
        "text": ("a", "ü" * 300, "y"),
        "nested": {1: (), 2: (1,), 3: (1, 2, 3, 4), "ordered": collections.OrderedDict(a=1, b=[])},
        "constants": [None, True, False],
    }
    value["again"] = value["text"]
    if protocol > 2:  # which has no bytes and would call a function to make them
        value["bytes"] = [b"bytes", b"x" * 300]
    assert unpickle(io.BytesIO(pickle.dumps(value, protocol=protocol)), {}) == value


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch {marker}",)),
        (eval, ("open({marker!r}, 'w')",)),
        (os.mkdir, ("{marker}",)),
        (getattr, ("x", "system")),
        (np.zeros, (3,)),
        (collections.Counter, ()),
        (dict, ()),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_nothing_is_called(function, arguments, protocol, tmp_path):
    marker = tmp_path / "marker"
    arguments = tuple(a.format(marker=str(marker)) if isinstance(a, str) else a for a in arguments)
    evil = Evil(function, *arguments)
    file = opened(tmp_path / "a", beside_a_tensor({"deep": [evil, (evil,)]}, protocol))
    np.testing.assert_array_equal(file.tensors["w"].read(), np.arange(6))
    assert list(file.tensors) == ["w"]
    with pytest.raises(WeightsError, match=r"it would construct '.*', which is more than tensors"):
        opened(tmp_path / "b", pickle.dumps(evil, protocol=protocol))
    with pytest.raises(WeightsError, match="there is no state_dict in it"):
        opened(tmp_path / "b", pickle.dumps({"a": evil}, protocol=protocol))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02}", "damaged"),
        (b"\x80\x02(.", "damaged"),
        (b"\x80\x02)R.", "damaged"),
        (b"\x80\x02}}s.", "damaged"),
        (b"\x80\x02h\x05.", "damaged"),
        (b"\x80\x02}(K\x01u.", "damaged"),
        (b"\x80\x02](K\x01K\x02u.", "damaged"),
        (b"\x80\x02X\xff\xff\xff\x7fa.", "damaged"),
        (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.", "damaged"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f\x01.", "damaged"),
        (b"\x80\x02}]K\x01s.", "damaged .TypeError: unhashable"),
        (b"\x80\x02K\x01K\x02\x86)R.", "damaged .TypeError: 'tuple' object is not callable"),
        (b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", "damaged"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "it would construct 'torch.FloatStorage'"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00))tR.", "not a view of a storage"),
        (b"\x80\x02ctorch._utils\n_rebuild_parameter\nK\x01\x85R.", "there is no state_dict in it"),
        (b"\x80\x02K\x01)\x81.", "damaged"),
        (b"\x80\x02cos\nsystem\n.", "it would construct 'os.system'"),
        (b"\x80\x02(X\x07\0\0\0storageK\x01K\x01K\x01K\x01tQ.", "something that is not a storage"),
        (b"\x80\x02\x82\x01.", "damaged"),
        (b"I99999\n.", "there is no state_dict in it"),
        (b"\x80\x02(ios\nsystem\n.", "it would construct 'os.system'"),
        (b"\x80\x02}ccollections\nOrderedDict\n}X\x05\0\0\0items}sbK\x01s.", "damaged|there is no state_dict"),
        (b"\x80\x02K\x01r\xff\xff\xff\xff.", "a memo of absurd size"),  # nine bytes that took four gigabytes
        (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "there is no state_dict in it"),  # nested deeply
    ],
    ids=lambda value: repr(value)[:40],
)
def test_damaged_and_hostile_pickles_are_refused(data, message, tmp_path):
    with pytest.raises(WeightsError, match=message) as error:
        opened(tmp_path / "a", data)
    assert str(error.value).startswith(f"{tmp_path / 'a'}: ")
    assert "\n" not in str(error.value)


# Pairs of pairs of pairs: 2 ** 100 leaves if anything walks, compares or hashes them.
PAIRS = b"\x80\x02K\x01" + b"".join(b"q%c%s" % (n, b"h%c\x86" % n) for n in range(100))


def test_what_never_ends_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(child, "SECONDS", 1)
    with pytest.raises(WeightsError, match="there is no state_dict in it"):
        opened(tmp_path / "a", PAIRS + b".")
    with pytest.raises(WeightsError, match="to read it takes more than 1 s, more than any file of weights"):
        opened(tmp_path / "a", b"\x80\x02}" + PAIRS[2:] + b"K\x01s.")


def test_what_fills_the_memory_is_ended(tmp_path):
    """One list of a hundred thousand pairs, made into dictionaries a thousand times."""
    pair, make = b"K\x01K\x02\x86", b"ccollections\nOrderedDict\nh\x01\x85R"
    pairs = b"".join(b"J" + n.to_bytes(4, "little") + b"K\x02\x86" for n in range(100_000))
    assert pair not in pairs
    with pytest.raises(WeightsError, match="to read it takes more memory than any file of weights of its size needs"):
        opened(tmp_path / "a", b"\x80\x02](" + pairs + b"eq\x010](" + make * 1000 + b"e.")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.abort()", r"it ended the library that reads it \(SIGABRT\)"),
        ("import sys; sys.exit('no such library')", "a: no such library$"),
        ("pass", "its reader ended without a word"),
        ("while True: pass", "to read it takes more than 0.05 s"),
        ("import os; os.write(1, bytes([255]) * 100)", "its reader sent what it never should"),
        ("import os; os.write(1, (2).to_bytes(8, 'little') + b'[]')", "expected a header with at most"),
    ],
)
def test_however_a_reader_ends_it_is_one_line(code, message, tmp_path, monkeypatch):
    """The endless one sets no limit of its own, as where a system has none to set; the clock ends it."""
    monkeypatch.setattr(child, "_CODE", code)
    monkeypatch.setattr(child, "SECONDS", 0.05 if "while" in code else 20)
    with pytest.raises(WeightsError, match=message) as error:
        opened(tmp_path / "a", pickle.dumps({}))
    assert "\n" not in str(error.value)


def test_the_child_is_isolated_and_imports_little(tmp_path):
    opened(tmp_path / "a", beside_a_tensor(1, 2))
    (tmp_path / "pickletools.py").write_text("raise SystemExit('a module beside the weights was run')")
    code = "from cnnjax.pretrained import open_file; print(open_file('a').tensors['w'].read().sum())"
    assert run(code, tmp_path) == "15.0\n"
    code = "import sys; from cnnjax.pretrained.readers import __main__, zips, torch_pickles\n"
    code += "print([name for name in ('jax', 'numpy', 'flax', 'h5py') if name in sys.modules])"
    assert run(code, pathlib.Path.cwd()) == "[]\n"


def run(code, folder):
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout
