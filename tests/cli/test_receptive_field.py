"""The verb `receptive-field`: its numbers, its files, a user's mistakes."""

import numpy as np
import pytest
from PIL import Image

from cnnjax.cli.main import run
from tests.cli.commands import last_json, only_line

VERB = "receptive-field"


def test_the_json_has_height_and_width(capsys):
    assert run([VERB, "lenet5", "--json"]) == 0
    result = last_json(capsys)
    assert (result["size"], result["stride"], result["padding"]) == ([16, 16], [4, 4], [0, 0])
    assert result["interval"] == [[8, 23], [8, 23]]
    assert (result["exact"], result["notes"], result["output_shape"]) == (True, [], [1, 5, 5, 16])


def test_words_a_layer_a_unit_and_the_table(capsys):
    words = [VERB, "lenet5", "--output", "c3", "--unit", "0", "9", "--layers"]
    assert run(words) == 0
    out = capsys.readouterr().out
    assert "14 of 32 pixels, stride 2, padding 0" in out
    assert "unit (0, 9) reads rows 0 to 13 and columns 18 to 31" in out
    assert "LeNet5/s4" in out
    assert "max pool 2x2 stride 2x2" in out


def test_measured_on_a_photo_and_drawn(tmp_path, capsys):
    photo, picture = tmp_path / "photo.jpg", tmp_path / "field.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(photo)
    words = [VERB, "lenet5", "--measured", "--samples", "2", "--image", str(photo), "--plot", str(picture), "--json"]
    assert run(words) == 0
    result = last_json(capsys)
    assert 4 < result["measured"]["effective_size"][0] < 16
    assert 0 < result["measured"]["r_squared"] <= 1
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG"


def test_a_users_own_module(tmp_path, monkeypatch, capsys):
    (tmp_path / "ownnet.py").write_text(
        "from flax import linen as nn\n"
        "class Net(nn.Module):\n"
        "    num_classes: int = 10\n"
        "    @nn.compact\n"
        "    def __call__(self, x):\n"
        "        x = nn.Conv(4, (7, 7), strides=2, name='stem')(x)\n"
        "        return nn.Dense(self.num_classes)(x.mean((1, 2)))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert run([VERB, "ownnet:Net", "--input-shape", "20", "30", "3", "--json"]) == 0
    result = last_json(capsys)
    assert (result["layer"], result["size"], result["stride"]) == ("Net/stem", [7, 7], [2, 2])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["lenet"], 2, "unknown model 'lenet': did you mean 'lenet5'?"),
        (["lenet5", "--output", "c4"], 2, "unknown layer 'c4'"),
        (["lenet5", "--unit", "9", "0"], 2, "--unit: expected index 0 from 0 to 4"),
        (["lenet5", "--input-shape", "0", "32", "1"], 2, "three positive numbers"),
        (["lenet5", "--input-shape", "8", "8", "1"], 2, "at least 28x28 pixels"),
        (["lenet5", "--plot", "field.jpg"], 2, ".png or .svg"),
        (["lenet5", "--plot", "/no/such/field.png"], 2, "existing folder"),
        (["lenet5", "--measured", "--samples", "0"], 2, "--samples"),
        (["lenet5", "--weights", "x.pth"], 2, "expected --measured"),
        (["lenet5", "--image", "/no/such.jpg"], 1, "/no/such.jpg"),
        (["lenet5", "--measured", "--weights", "/no/such.pth"], 1, "/no/such.pth"),
        (["pathlib:Path", "--input-shape", "8", "8", "1"], 2, "no Flax linen module"),
        (["no.such:Net"], 2, "expected H W C"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else None,
)
def test_mistakes_are_one_line(words, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run([VERB, *words]) == code
    assert message in only_line(capsys)
