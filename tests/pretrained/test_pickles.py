"""Pickles as data: nothing that a file names is ever called, and no claim is believed."""

import collections
import io
import os
import pickle
import time

import numpy as np
import pytest

from cnnjax.pretrained import WeightsError
from cnnjax.pretrained.pickles import read_pickle


class Evil:
    """Runs a command when Python unpickles it."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def read(data):
    return read_pickle(io.BytesIO(data))


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
    assert read(pickle.dumps(value, protocol=protocol)) == value


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch {marker}",)),
        (eval, ("open({marker!r}, 'w')",)),
        (os.mkdir, ("{marker}",)),
        (getattr, (os, "system")),
        (np.zeros, (3,)),
        (collections.Counter, ()),
        (dict, ()),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_nothing_is_called(function, arguments, protocol, tmp_path):
    marker = tmp_path / "marker"
    arguments = tuple(a.format(marker=str(marker)) if isinstance(a, str) else a for a in arguments)
    if function is getattr:
        data = pickle.dumps({"a": Evil(function, "x", "system")}, protocol=protocol)
    else:
        data = pickle.dumps({"a": Evil(function, *arguments)}, protocol=protocol)
    with pytest.raises(WeightsError, match=r"it would construct '.*', which is more than tensors"):
        read(data)
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
        (b"\x80\x02U\x01aQ.", "damaged"),
        (b"\x80\x02X\xff\xff\xff\x7fa.", "damaged"),
        (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.", "damaged"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f\x01.", "damaged"),
        (b"\x80\x02\x8a\xff" + b"\x11" * 255 + b".", "damaged"),
        (b"\x80\x02}]K\x01s.", "a key that is no string or number"),
        (b"\x80\x02K\x01K\x02\x86)R.", "no constructor of tensors"),
        (b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", "something else than pairs"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "no constructor of tensors"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00))tR.", "no view of a storage"),
        (b"\x80\x02ctorch._utils\n_rebuild_parameter\nK\x01\x85R.", "a parameter in it is no tensor"),
        (b"\x80\x02K\x01)\x81.", "an instruction that no file of weights needs .NEWOBJ."),
        (b"\x80\x02cos\nsystem\n.", "it would construct 'os.system'"),
        (b"\x80\x02\x82\x01.", "an instruction"),
        (b"I99999\n.", "an instruction"),
        (b"\x80\x02(ios\nsystem\n.", "an instruction"),
    ],
)
def test_damaged_and_hostile_pickles_are_refused(data, message):
    with pytest.raises(WeightsError, match=message):
        read(data)


def test_bombs_neither_grow_nor_hang():
    begin = time.process_time()
    # Pairs of pairs of pairs: 2 ** 100 leaves if anything walked, compared or hashed them.
    pairs = b"\x80\x02K\x01" + b"".join(b"q%c%s" % (n, b"h%c\x86" % n) for n in range(100)) + b"."
    assert isinstance(read(pairs), tuple)
    with pytest.raises(WeightsError, match="a key that is no string or number"):
        read(b"\x80\x02}" + pairs[2:-1] + b"K\x01s.")
    # Nested a hundred thousand deep.
    deep = read(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    assert isinstance(deep, list)
    while deep:  # taken apart from outside, which Python does not do recursively either
        deep = deep.pop()
    # A memo index of four billion is one entry.
    assert read(b"\x80\x02K\x01r\xff\xff\xff\xff.") == 1
    # One list of a hundred thousand pairs, made into dictionaries a thousand times.
    pair = b"K\x01K\x02\x86"
    many = b"\x80\x02](" + pair * 100_000 + b"eq\x01" + b"ccollections\nOrderedDict\nh\x01\x85R0" * 1000 + b"K\x01."
    with pytest.raises(WeightsError, match="copies its own values without measure"):
        read(many)
    assert time.process_time() - begin < 5


def test_the_file_stands_behind_the_pickle_afterwards():
    file = io.BytesIO(pickle.dumps([1], protocol=2) + b"rest")
    assert read_pickle(file) == [1]
    assert file.read() == b"rest"
