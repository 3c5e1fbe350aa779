"""A set of one's own that TFDS prepared, trained on and evaluated by its name."""

import json
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from cnnjax.cli.main import run
from tests.cli.commands import last_json, only_line
from tests.data.tfds_builders import build, png

MODULE = """
import jax.numpy as jnp
from flax import linen as nn


class Mean(nn.Module):
    num_classes: int = 2
    input_shape: tuple = (6, 6, 1)

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_classes)(jnp.mean(x, axis=(1, 2)))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Dark and bright images of several sizes, prepared, and a net that tells them."""
    (tmp_path / "nets.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    random = np.random.default_rng(0)
    rows = [
        {"image": png(random.integers(0, 128, (6 + n % 3, 7), dtype=np.uint8) + 127 * (n % 2)), "label": "db"[n % 2]}
        for n in range(60)
    ]
    features = {
        "image": tfds.features.Image(shape=(None, None, 1)),
        "label": tfds.features.ClassLabel(names=["d", "b"]),
    }
    build(tmp_path / "sets", "shades", features, {"train": rows})
    return tmp_path


def test_training_and_what_asks_the_run_take_it(here, capsys):
    name = "tfds:shades?train=train[:70%]&test=train[70%:]"
    words = ["train", "nets:Mean", "--dataset", name, "--data-dir", "sets", "--epochs", "30"]
    assert run([*words, "--batch-size", "6", "--lr", "0.3", "--workdir", "run", "--json"]) == 0
    text = capsys.readouterr()
    assert "images differ in size: cut to (6, 6), as nets:Mean was published for (--image-size)" in text.err
    trained = json.loads(text.out)
    assert (trained["dataset"], trained["test_accuracy"]) == (name, 1.0)
    assert run(["eval", "--workdir", "run", "--data-dir", "sets", "--json"]) == 0
    assert last_json(capsys)["examples"] == 18
    assert run(["data", "prepare", "tfds:shades", "--data-dir", "sets", "--json"]) == 0
    capsys.readouterr()
    assert run(["train", "nets:Mean", "--dataset", "tfds:shade", "--data-dir", "sets"]) == 2
    assert "shade is not prepared in sets" in only_line(capsys)
