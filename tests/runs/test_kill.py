"""Killed at any time and started again, a run ends as if nothing had happened."""

import random
import time

import pytest

from cnnjax import runs
from cnnjax.runs import storage
from tests.runs.event_files import read_scalars
from tests.runs.worker import EPOCHS, EVERY, traced

STEPS = 20 * EPOCHS


def check_end(path, uninterrupted):
    """Compare a finished run with the uninterrupted one: its digest, its history, its TensorBoard files."""
    found, expected = runs.digest_directory(path), runs.digest_directory(uninterrupted)
    assert found["checkpoint"].startswith(f"step-{STEPS:09d}")
    assert found == expected
    assert _rows(path) == _rows(uninterrupted)
    scalars, reference = (read_scalars(each / "tensorboard") for each in (path, uninterrupted))
    assert {tag for tag in reference if "/" in tag} >= {"loss/train", "loss/val", "accuracy/val"}
    assert scalars.keys() == reference.keys()
    for tag, points in scalars.items():
        assert [step for step, _ in points] == list(range(20, STEPS + 1, 20)), tag
        if not tag.startswith("speed"):
            assert points == reference[tag]
    best = [p.name for p in storage.checkpoint_dirs(path / "checkpoints")]
    assert best == [p.name for p in storage.checkpoint_dirs(uninterrupted / "checkpoints")]


def _rows(path):
    return [line.split(",")[:-2] for line in (path / "history.csv").read_text().splitlines()]


def check_after_kill(path):
    """Check that nothing damaged is there and that at most one interval was lost; return the step to go on from."""
    newest = runs.load_newest(path / "checkpoints")
    step, damaged = (newest[2]["step"], newest[3]) if newest else (0, [])
    assert damaged == []
    assert all(storage.load(found) for found in storage.checkpoint_dirs(path / "checkpoints"))
    lost = (traced(path) or 0) - step
    # What was being written when the kill came is lost with it, and with it the steps that were taken meanwhile.
    writing = [storage.step_of(p.with_name(p.name.removeprefix("writing-"))) for p in path.rglob("writing-*")]
    assert len(writing) <= 1
    assert lost <= EVERY or (writing and writing[0] - step <= EVERY and lost < 2 * EVERY)
    return step


@pytest.mark.parametrize("wanted", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_times_ends_with_the_uninterrupted_ones_digest(
    wanted, uninterrupted, spawn, tmp_path, pytestconfig
):
    """SIGKILL, again and again in one workdir, the times drawn over all of a run."""
    chance, kills, number, ended = random.Random(wanted), 0, 0, []
    wanted = 20 if pytestconfig.getoption("full") else wanted
    path = tmp_path / "0"
    resumed_at = []
    while kills < wanted:
        before = traced(path)
        process = spawn(path)
        while process.poll() is None and traced(path) == before:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.9))
        process.kill()
        _, said = process.communicate(timeout=60)
        if process.returncode == 0:  # it was faster: another run is to be killed
            check_end(path, uninterrupted)
            number += 1
            ended.append(path)
            path = tmp_path / str(number)
            continue
        assert process.returncode == -9, said
        kills += 1
        resumed_at.append(check_after_kill(path))
    process = spawn(path)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    check_end(path, uninterrupted)
    assert any(0 < step < STEPS for step in resumed_at)


@pytest.mark.slow
def test_a_run_that_dies_at_each_place_in_a_checkpoints_life_ends_with_the_same_digest(uninterrupted, spawn, tmp_path):
    """One run dies at all the places in turn; what each death leaves is what the next process begins with."""
    path, chance = tmp_path / "run", random.Random(4)
    for place in ("mid-write", "before-rename", "after-rename", "clean-up"):
        process = spawn(path, place, chance.randint(3, 10))
        _, said = process.communicate(timeout=120)
        assert process.returncode == 137, said
        left = {p.name.partition("-")[0] for p in (path / "checkpoints").iterdir()} - {"step"}
        expected = {"mid-write": {"writing"}, "before-rename": {"writing"}, "clean-up": {"deleting"}}
        assert left == expected.get(place, set())
        assert check_after_kill(path) > 0
    process = spawn(path)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    check_end(path, uninterrupted)
    assert {p.name.partition("-")[0] for p in (path / "checkpoints").iterdir()} == {"step"}


def test_a_finished_run_is_left_as_it_is(uninterrupted, spawn):
    before = runs.digest_directory(uninterrupted)
    process = spawn(uninterrupted)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert runs.digest_directory(uninterrupted) == before
    assert read_scalars(uninterrupted / "tensorboard")
