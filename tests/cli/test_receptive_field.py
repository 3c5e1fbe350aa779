"""The verb `receptive-field`: its numbers, its files, a user's mistakes."""

import re

import jax
import numpy as np
import pytest
from PIL import Image

from cnnjax.cli.main import run
from cnnjax.receptive_field import effective_size, fit_gaussian
from tests.cli.commands import last_json, only_line
from tests.pretrained import torchvision_nets as torch_nets

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


@pytest.mark.slow
def test_published_weights_on_a_photo_give_what_torch_gives(tmp_path, capsys):
    """The file is torch's own, the photo a JPEG, the gradient torch's: of one unit, its channels weighted alike."""
    torch = pytest.importorskip("torch")
    net = torch_nets.build("resnet18", num_classes=1000)
    weights, photo = tmp_path / "resnet18.pth", tmp_path / "photo.jpg"
    torch.save(net.state_dict(), weights)
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8))
    coarse.resize((80, 64), Image.Resampling.BICUBIC).save(photo, quality=95)
    words = ["resnet18", "--input-shape", "64", "64", "3", "--output", "stage1_block1", "--measured", "--samples", "1"]
    files = ["--weights", str(weights), "--image", str(photo), "--plot", str(tmp_path / "field.svg")]
    assert run([VERB, *words, *files, "--unit", "5", "9", "--seed", "3", "--json"]) == 0
    result = last_json(capsys)

    with Image.open(photo) as opened:
        pixels = np.asarray(opened, np.float32)[:, 8:72] / 255  # the middle square, as torchvision's transforms cut it
    image = (pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    tensor = torch.tensor(image.transpose(2, 0, 1)[None].astype(np.float32), requires_grad=True)
    seen = []
    net.layer1.register_forward_hook(lambda _, __, out: seen.append(out))
    net(tensor)
    channels = jax.random.normal(jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 0), 1), (1, 64))
    (seen[0][:, :, 5, 9] * torch.tensor(np.array(channels))).sum().backward()
    heat = np.abs(tensor.grad.numpy()[0]).sum(0)
    assert result["interval"] == [[0, 41], [15, 57]]
    np.testing.assert_allclose(result["measured"]["effective_size"], effective_size(heat), rtol=1e-3)
    np.testing.assert_allclose(result["measured"]["effective_size_68"], effective_size(heat, 0.6827), rtol=1e-3)
    np.testing.assert_allclose(result["measured"]["sigma"], fit_gaussian(heat).sigma, rtol=1e-2)


def test_what_was_done_to_the_photo_is_said(tmp_path, capsys):
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 4), np.uint8), "RGBA").save(photo)
    assert run([VERB, "lenet5", "--measured", "--samples", "1", "--image", str(photo), "--output", "c1"]) == 0
    words = capsys.readouterr()
    assert "transparency on white, grey, centre 40×40 → 32×32" in words.out
    wide, narrow = (float(number) for number in re.findall(r"within ([0-9.]+) x", words.out))
    assert 0 < narrow < wide <= 5


OWN = """
from flax import linen as nn
class Net(nn.Module):
    num_classes: int = 10
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (7, 7), strides=2, name='stem')(x)
        return nn.Dense(self.num_classes)(x.mean((1, 2)))
"""


@pytest.fixture
def own_net(tmp_path, monkeypatch):
    (tmp_path / "ownnet.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return [VERB, "ownnet:Net", "--input-shape", "20", "30", "3"]


def test_growth_is_drawn(own_net, tmp_path, capsys):
    sizes = []
    for extra in ([], ["--measured", "--samples", "1"]):
        assert run([*own_net, "--growth", "growth.svg", *extra, "--json"]) == 0
        assert last_json(capsys)["growth"] == "growth.svg"
        sizes.append(len((tmp_path / "growth.svg").read_text()))
    assert 1000 < sizes[0] < sizes[1]  # the measured line comes on top


def test_a_users_own_module(own_net, capsys):
    assert run([*own_net, "--json"]) == 0
    result = last_json(capsys)
    assert (result["layer"], result["size"], result["stride"]) == ("Net/stem", [7, 7], [2, 2])


def test_a_net_without_a_feature_map_is_looked_at_as_a_whole(tmp_path, monkeypatch, capsys):
    layers = "x = nn.Dense(self.num_classes)(x.reshape(x.shape[0], -1)); return x"
    (tmp_path / "flatnet.py").write_text(OWN[: OWN.index("x = nn.Conv")] + layers)
    monkeypatch.chdir(tmp_path)
    assert run([VERB, "flatnet:Net", "--input-shape", "4", "5", "3"]) == 0
    out = capsys.readouterr().out
    assert "4 of 4 pixels, the whole image" in out
    assert "each unit reads rows 0 to 3 and columns 0 to 4" in out


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
        (["lenet5", "--growth", "growth.pdf"], 2, ".png or .svg"),
        (["resnet20", "--image", __file__], 1, "not an image"),
        (["lenet5", "--measured", "--samples", "0"], 2, "--samples"),
        (["lenet5", "--weights", "x.pth"], 2, "expected --measured"),
        (["lenet5", "--image", "/no/such.jpg"], 1, "/no/such.jpg"),
        (["lenet5", "--measured", "--weights", "/no/such.pth"], 1, "/no/such.pth"),
        (["pathlib:Path", "--input-shape", "8", "8", "1"], 2, "not a Flax linen module"),
        (["no.such:Net"], 2, "cannot import model"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else None,
)
def test_mistakes_are_one_line(words, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run([VERB, *words]) == code
    assert message in only_line(capsys)
