"""More epochs for a run: exactly the longer run where the schedule allows it, else a line that says why not."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from cnnjax import runs
from cnnjax.cli import training_setup
from cnnjax.cli.main import run
from cnnjax.errors import UsageError
from cnnjax.recipes import Recipe
from tests.cli.commands import last_json, only_line

WORDS = ["train", "tests.training.nets:TinyNet", "--dataset", "digits", "--batch-size", "240", "--no-tensorboard"]
CONSTANT = ["--schedule", "constant", "--augment", "translate:1"]


def train(folder, epochs, *words):
    return run([*WORDS, "--epochs", str(epochs), "--workdir", str(folder), "--json", *words])


def digest(folder):
    return {name: value for name, value in runs.digest_directory(folder).items() if name != "damaged"}


@pytest.fixture(scope="module")
def short_runs(tmp_path_factory, data_dir):
    """Runs of one epoch by two schedules."""
    folder = tmp_path_factory.mktemp("short")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", data_dir)
        assert train(folder / "constant", 1, *CONSTANT) == 0
        assert train(folder / "cosine", 1, "--schedule", "cosine", "--learning-rate", "0.01") == 0
    return folder


def test_a_finished_run_gets_more_epochs_exactly(short_runs, tmp_path, capsys):
    path = short_runs / "constant"
    before = (path / "history.csv").read_text().splitlines()
    capsys.readouterr()
    assert train(path, 3, *CONSTANT) == 0
    extended = last_json(capsys)
    assert train(tmp_path / "whole", 3, *CONSTANT) == 0
    whole = last_json(capsys)
    differ = {name for name in whole if whole[name] != extended[name]}
    assert differ <= {"seconds", "workdir"}
    assert digest(path) == digest(tmp_path / "whole")
    assert (path / "history.csv").read_text().splitlines()[: len(before)] == before
    assert json.loads((path / "run.json").read_text())["config"]["epochs"] == 3
    assert train(path, 3, *CONSTANT) == 0  # and is finished now
    assert last_json(capsys) == extended
    assert train(path, 2, *CONSTANT) == 2
    assert "epochs 3 there, 2 here" in only_line(capsys)


def test_a_schedule_made_for_its_epochs_refuses_more_and_says_how_to_go_on(short_runs, capsys):
    path = short_runs / "cosine"
    result = (path / "result.json").read_text()
    capsys.readouterr()
    options = ("--schedule", "cosine", "--learning-rate", "0.01")
    assert train(path, 2, *options) == 2
    line = only_line(capsys)
    assert f"--epochs 2: the run in {path} was made for 1 epoch" in line
    # Six steps of 240 of the 1,297 images an epoch: 1 + cos(pi / 6) and 1 + cos(pi / 11), halved, in the second step.
    assert "its cosine schedule was made for them: at step 2 the learning rate was 0.0093" in line
    assert "and of 2 epochs it would have been 0.0097" in line
    assert f"To start a new run from what it learned: --weights {path} --epochs 1 --workdir NEW." in line
    assert train(path, 4, *options, "--seed", "1") == 2
    assert "holds a run with another configuration: epochs 1 there, 4 here; seed 0 there, 1 here" in only_line(capsys)
    assert (path / "result.json").read_text() == result


def test_a_run_that_kept_its_best_epoch_ends_with_it():
    setup: Any = SimpleNamespace(
        recipe=Recipe(model="lenet5", dataset="digits", epochs=9, schedule="constant", patience=2),
        dataset=SimpleNamespace(train=range(300)),
        rate=lambda step: 1e-3,
    )
    training_setup.check_extension(setup, 4, "run", ended=False)
    with pytest.raises(UsageError, match=r"parameters of its best epoch \(--patience\), and only those of its last"):
        training_setup.check_extension(setup, 4, "run", ended=True)
