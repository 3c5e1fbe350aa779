"""Stopped after any step, a run goes on with the batches that were left, and ends with the same bits."""

import pytest

from cnnjax import runs
from cnnjax.runs import storage
from cnnjax.training import CsvHistory, EarlyStopping
from tests.runs.tiny_run import Data, order, resumed, train


def parts(folder):
    return [EarlyStopping(monitor="val_accuracy", patience=9), CsvHistory(folder / "history.csv")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 40 steps in two epochs, saved after each step and each epoch; what it saw and how it ended."""
    folder, data = tmp_path_factory.mktemp("whole"), Data()
    saver = runs.Checkpoints(folder / "checkpoints", every_steps=1, every_seconds=0.0, keep=100)
    train(*parts(folder), saver, data=data)
    return folder, data.seen


def test_the_examples_of_an_epoch_are_all_there_in_an_order_of_its_own(whole):
    _, seen = whole
    for epoch in range(2):
        ids = [example for at, batch in seen if at == epoch for example in batch]
        assert sorted(ids) == list(range(40))
    assert (order(0) != order(1)).any()


def test_resumed_after_any_of_forty_steps_it_sees_the_same_examples_and_has_the_same_digest(whole, tmp_path):
    folder, seen = whole
    reference = runs.digest_directory(folder)
    paths = storage.checkpoint_dirs(folder / "checkpoints")
    assert [storage.step_of(path) for path in paths] == [*range(1, 21), 20, *range(21, 41), 40]
    rows = _without_times((folder / "history.csv").read_text())
    assert len(rows) == 3
    for place, path in enumerate(paths[:-1]):
        here, data, step = tmp_path / str(place), Data(), storage.step_of(path)
        here.mkdir()
        saver = runs.Checkpoints(here / "checkpoints", every_seconds=0.0, keep=1)
        train(*parts(here), saver, data=data, **resumed(path))
        assert data.seen == seen[step:]
        assert runs.digest_directory(here) == reference
        assert _without_times((here / "history.csv").read_text()) == rows


def _without_times(text):
    return [line.split(",")[:-2] for line in text.splitlines()]


@pytest.mark.parametrize("first", [1, 19, 20, 21, 33])
def test_a_chain_of_resumes_is_exact_too(whole, tmp_path, first):
    """Resumed from what a resumed run has saved, again and again, each time some steps further on."""
    folder, seen = whole
    reference = runs.digest_directory(folder)
    path, data = folder / "checkpoints" / f"step-{first:09d}-epoch-{(first - 1) // 20:05d}", Data()
    for number, stride in enumerate((1, 2, 5, 40)):
        here = tmp_path / str(number)
        here.mkdir()
        stop = storage.step_of(path) + stride
        saver = runs.Checkpoints(here / "checkpoints", every_steps=1, every_seconds=0.0, keep=100)
        train(*parts(here), saver, data=data, **resumed(path))
        last = min(stop, 40)
        del data.seen[last - first :]
        path = next(p for p in storage.checkpoint_dirs(here / "checkpoints") if storage.step_of(p) == last)
    assert data.seen == seen[first:]
    assert runs.digest_directory(tmp_path / "3") == reference
