"""Several processes that train one net over loopback: as one does, and none goes on alone."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from cnnjax import runs
from cnnjax.cli.main import run
from tests.cli.commands import cnnjax, only_line

WORDS = ["train", "tests.training.nets:TinyNet", "--dataset", "digits", "--batch-size", "100", "--no-tensorboard"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def slurm(number, job):
    """Return what SLURM tells the processes of a step of two tasks."""
    own = {"SLURM_PROCID": number, "SLURM_LOCALID": number, "SLURM_JOB_ID": job, "SLURM_NTASKS": 2}
    own |= {"SLURM_STEP_NUM_TASKS": 2, "SLURM_STEP_NUM_NODES": 1, "SLURM_STEP_NODELIST": "localhost"}
    return {name: str(value) for name, value in own.items()}


def start_pair_under_slurm(workdir, *words):
    """Start two processes that find each other by SLURM's variables."""
    pair, job = [], os.getpid()  # JAX derives the port from it
    for number in range(2):
        command = [sys.executable, "-m", "cnnjax", *WORDS, *words, "--workdir", workdir, "--distributed", "--json"]
        with said(workdir, number, "out").open("w") as out, said(workdir, number, "err").open("w") as err:
            own = {**environment(1), **slurm(number, job)}
            pair.append(subprocess.Popen([*map(str, command)], stdout=out, stderr=err, env=own))
    return pair


def start_pair(workdir, *words):
    """Start two processes of a run; each one's stdout and stderr go to files."""
    address, pair = f"127.0.0.1:{free_port()}", []
    for number in range(2):
        command = [sys.executable, "-m", "cnnjax", *WORDS, *words, "--workdir", workdir, "--coordinator", address]
        command += ["--processes", "2", "--process", str(number), "--json"]
        with said(workdir, number, "out").open("w") as out, said(workdir, number, "err").open("w") as err:
            pair.append(subprocess.Popen([*map(str, command)], stdout=out, stderr=err, env=environment(1)))
    return pair


def environment(devices):
    return {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}


def wait(pair, seconds=120):
    return [process.wait(timeout=seconds) for process in pair]


def said(workdir, number, stream="err"):
    """Return the file that holds what a process said."""
    return workdir.parent / f"{workdir.name}.{number}.{stream}"


def everything(workdir):
    return "".join(said(workdir, number).read_text() for number in range(2))


def wait_for_checkpoint(workdir, pair, beyond=0, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        steps = [int(path.name.split("-")[1]) for path in (workdir / "checkpoints").glob("step-*-epoch-*")]
        if steps and max(steps) > beyond:
            return max(steps)
        assert all(process.poll() is None for process in pair), everything(workdir)
        time.sleep(0.05)
    raise AssertionError("no checkpoint came")


def newest(workdir):
    found = runs.load_newest(workdir / "checkpoints")
    assert found is not None
    return found


@pytest.mark.slow
def test_two_processes_train_as_one_with_two_devices_does(tmp_path):
    pair, one = tmp_path / "pair", tmp_path / "one"
    processes = start_pair_under_slurm(pair, "--epochs", "3")
    assert wait(processes) == [0, 0], everything(pair)
    alone = cnnjax(*WORDS, "--epochs", 3, "--workdir", one, env=environment(2))
    assert alone.returncode == 0, alone.stderr

    (_, ours, position, _), (_, theirs, other, _) = (newest(path) for path in (pair, one))
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-5, err_msg=name)
    assert [row["step"] for row in position["history"]] == [row["step"] for row in other["history"]]
    assert said(pair, 0, "out").read_text().count("\n") == 1  # one JSON object, and nothing that C++ has to say
    assert said(pair, 1, "out").read_text() == ""


@pytest.mark.slow
def test_a_pair_survives_signals_and_kills_exactly(tmp_path):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert wait(start_pair(whole, "--epochs", "15")) == [0, 0]
    words = ("--epochs", "15", "--checkpoint-every", "5")

    pair = start_pair(torn, *words)
    wait_for_checkpoint(torn, pair)
    pair[1].send_signal(signal.SIGTERM)  # the one that does not save
    assert wait(pair) == [143, 143], everything(torn)

    for victim in (1, 0):
        stopped = newest(torn)[2]["step"]
        pair = start_pair(torn, *words)
        wait_for_checkpoint(torn, pair, beyond=stopped)
        pair[victim].kill()
        began = time.monotonic()
        assert pair[1 - victim].wait(timeout=60) == 1
        assert time.monotonic() - began < 60
        pair[victim].wait()
        last = said(torn, 1 - victim).read_text().strip().splitlines()[-1]
        assert last.startswith("cnnjax: another process of the run has ended or can't be reached"), last

    assert wait(start_pair(torn, *words)) == [0, 0], everything(torn)
    digests = [runs.digest_directory(path)["digest"] for path in (whole, torn)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--coordinator", "127.0.0.1:1"], "belong together: give all three"),
        (["--coordinator", "127.0.0.1:1", "--processes", "2", "--process", "2"], "--process: expected 0 to 1, got 2"),
        (["--devices", "99"], "devices: expected 1 to"),
        (["--devices", "0"], "--devices: expected at least 1, got 0"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(words, message, tmp_path, capsys):
    assert run([*WORDS, "--epochs", "1", "--workdir", str(tmp_path / "run"), *words]) == 2
    text = capsys.readouterr().err
    assert message in text
    assert text.count("\n") == 1


def test_what_a_batch_cannot_be_divided_by_is_refused_in_one_line(tmp_path):
    done = cnnjax(*WORDS, "--epochs", 1, "--workdir", tmp_path / "run", "--json", env=environment(3))
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == (
        "cnnjax: batch size 100 can't be divided by 3 devices: 99, for example, can."
    )


def test_a_job_that_is_none_is_refused(tmp_path):
    done = cnnjax(*WORDS, "--epochs", 1, "--workdir", tmp_path / "run", "--distributed", env=environment(1))
    assert done.returncode == 2
    assert done.stderr.startswith("cnnjax: --distributed: found no SLURM, Kubernetes or TPU job here. Give")


def test_nothing_is_kept_of_a_dry_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run([*WORDS, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "dry run: nothing was kept" in text
    assert "[100, 8, 8, 1] float32" in text
    assert "in training mode: BatchNorm_0, Dropout_0\n" in text
    assert "in evaluation mode" not in text
    assert run([*WORDS, "--dry-run", "--json", "--freeze", "Norm"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["training_modules"], result["evaluation_modules"]) == (["Dropout_0"], ["BatchNorm_0"])
    assert list(tmp_path.iterdir()) == []


def test_a_window_that_ends_before_it_begins_is_refused(capsys):
    assert run([*WORDS, "--profile", "9:3"]) == 2
    assert only_line(capsys) == "cnnjax: --profile: expected STEP:STEP, the first smaller, such as 10:20, got '9:3'."
