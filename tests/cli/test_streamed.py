"""Runs whose images are read as needed."""

import itertools
import json
import pathlib

import pytest

from cnnjax.cli.main import run
from cnnjax.data.folder import ImageFiles
from cnnjax.errors import CnnjaxError
from tests.cli.commands import last_json, read_csv
from tests.data.photos import SIZES, jpeg, picture

NET = """
from flax import linen as nn

class Small(nn.Module):
    num_classes: int = 10

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_classes)(nn.relu(nn.Conv(4, (3, 3))(x)).mean(axis=(1, 2)))
"""


@pytest.fixture
def words(tmp_path, monkeypatch):
    """Return the words that train on twenty photographs of each of two classes, all but the workdir."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            image = jpeg(picture(SIZES[number % len(SIZES)], seed=100 * label + number))
            (tmp_path / "photos" / name / f"{number}.jpg").write_bytes(image)
    (tmp_path / "streamednets.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    dataset = ["--dataset", f"folder:{tmp_path}/photos?test=0.2,crop=random", "--image-size", "16"]
    settings = ["--batch-size", "5", "--epochs", "3", "--learning-rate", "0.01", "--checkpoint-every", "2"]
    return ["train", "streamednets:Small", *dataset, *settings, "--no-tensorboard", "--json", "--workdir"]


def test_a_run_that_lost_its_disk_ends_in_one_line_and_then_goes_on_exactly(words, monkeypatch, capsys):
    assert run([*words, "whole"]) == 0
    whole = last_json(capsys)
    assert (whole["epochs"], whole["steps"]) == (3, 16)  # 27 images are left to train on

    fetch, calls = ImageFiles.fetch, itertools.count()

    def fetch_until_it_fails(self, place):
        if next(calls) >= 50:
            raise CnnjaxError(f"{self.top / self.files[place][0]}: cannot be read (Stale file handle).")
        return fetch(self, place)

    monkeypatch.setattr(ImageFiles, "fetch", fetch_until_it_fails)
    assert run([*words, "broken"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1].endswith(".jpg: cannot be read (Stale file handle).")
    monkeypatch.setattr(ImageFiles, "fetch", fetch)
    assert run([*words, "broken"]) == 0
    captured = capsys.readouterr()
    assert "resuming at step" in captured.err
    resumed = json.loads(captured.out)
    same = ("steps", "train_loss", "val_loss", "test_loss", "test_accuracy")
    assert [resumed[key] for key in same] == [whole[key] for key in same]
    digests = []
    for path in ("whole", "broken"):
        assert run(["digest", path, "--json"]) == 0
        digests.append(last_json(capsys)["leaves"])
    assert digests[0] == digests[1]


def test_predictions_of_a_streamed_split_are_written_by_file(words, capsys):
    assert run([*words, "run"]) == 0
    trained = last_json(capsys)
    assert run(["eval", "--workdir", "run", "--dump-predictions", "p.csv", "--json"]) == 0
    result = last_json(capsys)
    count = result["examples"]
    assert 2 < count < 14
    assert result["accuracy"] == trained["test_accuracy"]
    rows = read_csv(pathlib.Path("p.csv"))
    assert len({row["id"] for row in rows}) == count
    assert all(row["id"].startswith(("cat", "dog")[int(row["label"])]) for row in rows)
    assert sum(row["label"] == row["prediction"] for row in rows) / count == result["accuracy"]
