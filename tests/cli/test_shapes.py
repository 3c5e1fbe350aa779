"""`cnnjax shapes` and its picture."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

from cnnjax.cli.main import run
from tests.cli.commands import last_json, only_line

WINDOW = ["shapes", "--input", "8", "--kernel", "3", "--stride", "2"]


def colours(path):
    """Return how many pixels of the picture have each colour."""
    with Image.open(path) as picture:
        values, counts = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0, return_counts=True)
    return {f"#{r:02X}{g:02X}{b:02X}": int(count) for (r, g, b), count in zip(values.tolist(), counts)}


def test_one_axis_in_words_and_in_json(capsys):
    assert run(WINDOW) == 0
    text = capsys.readouterr().out
    assert "input 8, kernel 3, stride 2, dilation 1: output 3" in text
    assert "not whole: 1 of stride 2 left over" in text
    assert "pixels never read: 7" in text
    assert run([*WINDOW, "--json"]) == 0
    assert last_json(capsys) == {"output": 3, "padding": [0, 0], "unread": [7]}


def test_two_axes_give_height_and_width(capsys):
    assert run(["shapes", "--input", "224", "160", "--kernel", "7", "--stride", "2", "--padding", "SAME"]) == 0
    text = capsys.readouterr().out
    assert "height: input 224, kernel 7" in text
    assert "width: input 160, kernel 7" in text
    words = ["shapes", "--input", "9", "--kernel", "3", "2", "--stride", "3", "4", "--padding", "1,0", "VALID"]
    assert run([*words, "--json"]) == 0
    assert last_json(capsys) == {"output": [3, 2], "padding": [[1, 0], [0, 0]], "unread": [[8], [2, 3, 6, 7, 8]]}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        # torchvision's GoogLeNet, its last stage: 2/2 in ceil mode.
        (["--input", "15", "--kernel", "2", "--pool", "--ceil-mode"], {"output": 8, "padding": [0, 1], "unread": []}),
        (["--input", "9", "--kernel", "3", "--dilation", "4"], {"output": 1, "padding": [0, 0]}),
        (["--input", "6", "--kernel", "3", "--padding=-1,2"], {"output": 5, "padding": [-1, 2], "unread": [0]}),
        (
            ["--input", "3", "--kernel", "2", "--stride", "3", "--transposed"],
            {"output": 8, "unread": [], "unwritten": [2, 5]},
        ),
        (
            [*WINDOW[3:], "--input", "7", "--padding", "1", "--transposed", "--output-padding", "1"],
            {"output": 14, "padding": [1, 1]},
        ),
    ],
    ids=lambda value: " ".join(value[2:]) if isinstance(value, list) else None,
)
def test_every_kind_of_window(words, expected, capsys):
    assert run(["shapes", *words, "--json"]) == 0
    found = last_json(capsys)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "5", "--kernel", "7"], "no larger than the padded size 5, got kernel 7"),
        (["--input", "9", "5", "--kernel", "7"], "width: shapes: expected a window no larger than the padded size 5"),
        (["--input", "5", "--kernel", "3", "--dilation", "4"], "kernel 3 with dilation 4 (reach 9)"),
        (["--input", "5", "--kernel", "3", "--padding=-3"], "got (-3, -3) on size 5"),
        (["--input", "5", "--kernel", "0"], "kernel of at least 1, got 0"),
        (["--input", "5", "--kernel", "3", "--padding", "FULL"], "'FULL'"),
        (["--input", "5", "--kernel", "3", "--padding", "1,2,3"], "BEFORE,AFTER"),
        (["--input", "5", "6", "7", "--kernel", "3"], "--input: expected one value or two"),
        (["--input", "5", "--kernel", "2", "--pool", "--padding", "2"], "padding smaller than the window 2"),
        (["--input", "1", "--kernel", "3", "--padding", "4", "--transposed"], "nothing left"),
        (["--input", "5", "--kernel", "3", "--transposed", "--ceil-mode"], "a transposed convolution has none"),
        (["--input", "5", "--kernel", "3", "--output-padding", "1"], "--output-padding: only with --transposed"),
        (["--input", "1000000000", "--kernel", "3"], "up to 100,000"),
        (["--input", "5", "--kernel", "3", "--plot", "windows.pdf"], "a file named .png"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else None,
)
def test_an_impossible_size_names_the_number_and_exits_with_2(words, message, capsys):
    assert run(["shapes", *words]) == 2
    assert message in only_line(capsys)


def test_the_picture_shows_padding_and_unread_pixels_only_where_there_are_any(tmp_path, capsys):
    path = tmp_path / "windows.png"
    line = ["shapes", "--input", "9", "--kernel", "2", "--stride", "3"]
    for words, padding, missed in (
        ([*line, "--padding", "1"], True, True),
        (["shapes", "--input", "9", "--kernel", "3"], False, False),
        ([*line, "--padding", "0", "1"], True, True),
        (["shapes", "--input", "9", "300", "--kernel", "3", "--padding", "SAME"], True, False),
        ([*line, "--transposed"], False, True),
        (["shapes", "--input", "400", "--kernel", "1"], False, False),
    ):
        assert run([*words, "--plot", str(path), "--json"]) == 0
        assert last_json(capsys)["plot"] == str(path)
        drawn = colours(path)
        # A few pixels of a letter's edge may have any grey.
        assert [drawn.get(colour, 0) > 100 for colour in ("#BDBDBD", "#E69F00")] == [padding, missed], words
        assert {"#F7F7F7", "#0072B2"} <= set(drawn)
        path.unlink()


def test_without_matplotlib_one_line_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    assert run([*WINDOW, "--plot", str(tmp_path / "windows.png")]) == 1
    assert "pip install 'cnnjax[plot]'" in only_line(capsys)
    monkeypatch.undo()
    assert run([*WINDOW, "--plot", str(tmp_path / "no" / "windows.png")]) == 1
    assert f"there is no folder {tmp_path / 'no'}" in only_line(capsys)
