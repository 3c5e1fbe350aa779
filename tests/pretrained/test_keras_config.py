"""What a Keras file's configuration says beside its weights: heeded, compared, or said to be unknown."""

import json
import os
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest
from flax import linen as nn

from cnnjax import layers
from cnnjax.pretrained import Rule, WeightsError, keras_config, load

# Writes a net in both orders of its channels, and what it computes of images with channels last.
WRITE = """
import sys, numpy as np, keras
from keras import layers
order, flatten, folder = sys.argv[1:]
first = order == "channels_first"
x = layers.Input((3, 6, 8) if first else (6, 8, 3))
y = layers.Conv2D(5, 3, strides=(2, 1), dilation_rate=1, padding="valid", data_format=order, name="first")(x)
y = layers.BatchNormalization(axis=1 if first else -1, epsilon=2e-3, name="norm")(y)
y = layers.Activation("relu")(y)
y = layers.Add(name="sum")([y, 0.0 * y + 0.0])  # operations are in the configuration, but have no place in the weights
y = layers.Flatten(data_format=flatten)(y)
net = keras.Model(x, layers.Dense(4, name="logits")(y))
rng = np.random.default_rng(0)
for variable in net.variables:
    sign = rng.choice([-1, 1], variable.shape) if len(variable.shape) > 1 else 1
    variable.assign(sign * rng.uniform(0.5, 1.5, variable.shape).astype("f4"))
images = rng.normal(size=(2, 6, 8, 3)).astype("f4")
net.save(folder + "/net.keras"), net.save(folder + "/net.h5"), net.save_weights(folder + "/net.weights.h5")
np.savez(folder + "/want.npz", images=images, logits=np.asarray(net(images.transpose(0, 3, 1, 2) if first else images)))
"""
RULES = [("first", "first"), ("norm", "norm"), Rule("logits", "logits", flatten=(2, 6))]


class Net(nn.Module):
    """The same net in linen, with what the files' configurations say as fields."""

    strides: tuple = (2, 1)
    epsilon: float = 2e-3
    padding: str = "VALID"
    input_shape = (6, 8, 3)

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Conv(5, (3, 3), strides=self.strides, padding=self.padding, name="first")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, epsilon=self.epsilon, name="norm")(x))
        return nn.Dense(4, name="logits")(x.reshape(x.shape[0], -1))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Give the folder of a net whose convolution and Flatten have these orders."""
    made = {}

    def write(order, flatten):
        if (order, flatten) not in made:
            folder = made[order, flatten] = tmp_path_factory.mktemp("net")
            env = {**os.environ, "KERAS_BACKEND": "jax"}
            words = [sys.executable, "-c", WRITE, order, flatten, str(folder)]
            subprocess.run(words, env=env, check=True, capture_output=True)
        return made[order, flatten]

    return write


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize(
    ("order", "flatten"),
    [("channels_first", "channels_last"), ("channels_first", "channels_first"), ("channels_last", "channels_last")],
)
def test_either_order_of_channels_gives_kerass_logits(written, order, flatten, ending):
    folder = written(order, flatten)
    variables, report = load(Net(), folder / f"net{ending}", rules=RULES)
    with np.load(folder / "want.npz") as want:
        got = jax.jit(Net().apply)(variables, want["images"])
        np.testing.assert_allclose(got, want["logits"], rtol=1e-4, atol=1e-5)
    assert any("epsilon and axis were compared with the model" in note for note in report.notes)


def test_weights_alone_say_that_nothing_was_compared(written):
    folder = written("channels_last", "channels_last")
    _, report = load(Net(), folder / "net.weights.h5", rules=RULES)
    assert any(note.startswith("It has no configuration: data_format, strides, padding") for note in report.notes)


def test_another_configuration_than_the_models_is_refused(written):
    path = written("channels_last", "channels_last") / "net.keras"
    message = "norm: epsilon 0.002, the model's is 0.001"
    with pytest.raises(WeightsError, match=rf"{path}: its configuration is another net's: {message}"):
        load(Net(epsilon=1e-3), path, rules=RULES)


@pytest.mark.parametrize(
    ("layer", "change", "message"),
    [
        ("first", {"strides": [1, 1]}, r"first: strides \[1, 1\], the model's is \(2, 1\)"),
        ("first", {"dilation_rate": [2, 2]}, r"first: dilation_rate \[2, 2\]"),
        ("first", {"groups": 3}, "first: groups 3, the model's is 1"),
        ("first", {"padding": "same"}, "first: padding 'same', the model's is 'VALID'"),
        ("norm", {"axis": 2}, "norm: axis 2, the model normalises channels"),
        ("norm", {"axis": [1]}, r"norm: axis \[1\], the model normalises channels"),
    ],
)
def test_each_word_of_a_configuration_counts(written, tmp_path, layer, change, message):
    with zipfile.ZipFile(written("channels_last", "channels_last") / "net.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    for entry in config["config"]["layers"]:
        if entry["config"]["name"] == layer:
            entry["config"] |= change
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(WeightsError, match=message):
        load(Net(), tmp_path / "net.keras", rules=RULES)


@pytest.mark.parametrize("theirs", ["valid", "same"])
@pytest.mark.parametrize("ours", ["VALID", "SAME", 0])
def test_a_window_of_one_pixel_is_padded_alike_by_either_word(theirs, ours):
    """Keras's InceptionV3 says valid of 1x1 convolutions for which ours says SAME."""
    single, wide = (layers.Conv(3, size, padding=ours) for size in (1, 3))
    assert keras_config._differences({"padding": theirs}, single, False, {-1}) == []
    alike = (theirs == "same") == (ours == "SAME")
    assert bool(keras_config._differences({"padding": theirs}, wide, False, {-1})) != alike
