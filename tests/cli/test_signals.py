"""What ends a run from outside: signals, kills, a full disk; and how the same command goes on."""

import json
import pathlib
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from cnnjax import hosts
from cnnjax.cli import report
from cnnjax.cli.main import run
from cnnjax.cli.output import Output
from cnnjax.runs import AgreedStopOnSignal
from cnnjax.training import History
from tests.cli.commands import TRAIN, cnnjax, last_json


@pytest.mark.slow
def test_a_full_disk_ends_in_one_line_and_keeps_the_last_checkpoint(tmp_path, data_dir):
    """A limit on the size of a file stands in for the full disk: the system refuses the write in the same way."""
    path = tmp_path / "run"
    slow = [*TRAIN, "--epochs", "400", "--workdir", str(path), "--checkpoint-every", "50"]
    code = (
        "import resource, signal, sys, threading, time, pathlib\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "def fill():\n"
        f"    folder = pathlib.Path({str(path)!r}) / 'checkpoints'\n"
        "    while not list(folder.glob('step-*0-epoch-?????')): time.sleep(0.001)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "threading.Thread(target=fill, daemon=True).start()\n"
        "from cnnjax.cli.main import main\n"
        f"sys.argv[1:] = {slow!r}\n"
        "main()\n"
    )
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert failed.returncode == 1, failed.stderr
    assert failed.stderr.count("\n") == 1, failed.stderr
    assert "could not save the checkpoint" in failed.stderr
    assert "File too large" in failed.stderr
    kept = cnnjax("digest", path, "--json")
    assert kept.returncode == 0
    assert json.loads(kept.stdout)["checkpoint"].startswith("step-")


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path, number, code):
    path = tmp_path / "run"
    words = [*TRAIN, "--epochs", "60", "--workdir", str(path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "cnnjax", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("epoch  2/60 "):
            process.send_signal(number)
            break
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert err.count("\n") == 1
    assert "stopping after this step and saving" in err
    last = out.splitlines()[-1]
    assert last.startswith(f"{signal.Signals(number).name}: stopped at step ")
    assert "saved" in last
    assert not any("stopped" in line for line in out.splitlines()[:-1])
    assert not (path / "result.json").exists()
    resumed = subprocess.Popen(
        [sys.executable, "-m", "cnnjax", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    seen = []
    for line in resumed.stdout:
        seen.append(line)
        if line.startswith("epoch "):
            resumed.send_signal(signal.SIGTERM)
            break
    resumed.communicate(timeout=120)
    step = int(last.split("at step ")[1].split()[0].strip(",").replace(",", ""))
    assert any(line.startswith(f"resuming at step {step} ") for line in seen)
    assert pathlib.Path(path / "history.csv").read_text().count("\n") >= 3


def test_a_run_whose_training_had_ended_is_only_tested(tmp_path, capsys):
    """Killed between the last checkpoint and the result, after early stopping: not one more step is taken."""
    path = tmp_path / "run"
    words = [*TRAIN, "--epochs", "20", "--patience", "1", "--min-delta", "10", "--workdir", str(path), "--json"]
    assert run(words) == 0
    first = last_json(capsys)
    history = (path / "history.csv").read_text()
    (path / "result.json").unlink()
    assert run(words) == 0
    captured = capsys.readouterr()
    assert "training had ended" in captured.err
    assert json.loads(captured.out) == first
    assert first["epochs"] == 2
    assert (path / "history.csv").read_text() == history


@pytest.mark.slow
def test_a_run_killed_at_any_time_ends_as_if_it_had_not_been(workdir, tmp_path, capsys):
    path = tmp_path / "run"
    words = [*TRAIN, "--workdir", str(path), "--checkpoint-every", "7"]
    process = subprocess.Popen([sys.executable, "-m", "cnnjax", *words], stdout=subprocess.DEVNULL)
    while len(list((path / "checkpoints").glob("step-*7-epoch-?????"))) < 1 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (path / "result.json").exists()
    assert run(words) == 0
    capsys.readouterr()
    digests = []
    for each in (workdir, path):
        run(["digest", str(each), "--json"])
        digests.append(last_json(capsys)["leaves"])
    assert digests[0] == digests[1]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("line", ["recipe:", "compiling"])
def test_signals_outside_the_loop_leave_in_one_line_too(line, number, code, tmp_path):
    # Long enough for the command to leave where a library that it imports swallows the exception.
    words = [*TRAIN, "--epochs", "5000", "--workdir", str(tmp_path)]
    command = [sys.executable, "-u", "-m", "cnnjax", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert any(said.startswith(line) for said in process.stdout)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert err.count("\n") == 1


def test_a_signal_after_the_last_epoch_is_said_to_have_come_then(tmp_path, capsys):
    history = History([{"epoch": 1, "step": 3, "val_accuracy": 0.5}])
    state, workdir = SimpleNamespace(step=3), SimpleNamespace(path=tmp_path)
    assert report.stopped(15, state, history, 1, workdir, Output(as_json=False)) == 143
    assert "SIGTERM: stopped at step 3, after the last epoch, before the test" in capsys.readouterr().out
    assert report.stopped(15, state, history, 2, workdir, Output(as_json=False)) == 143
    assert "SIGTERM: stopped at step 3, in epoch 2" in capsys.readouterr().out


def test_a_signal_that_came_to_another_process_after_the_last_question_ends_this_one_too(monkeypatch):
    """Else that one leaves alone, and this one waits for it in the test."""
    stop = AgreedStopOnSignal()
    monkeypatch.setattr(hosts, "gather", lambda own: np.stack([own, np.array([0], np.float32)]))
    stop.on_end(SimpleNamespace())
    assert stop.received is None
    monkeypatch.setattr(hosts, "gather", lambda own: np.stack([own, np.array([15], np.float32)]))
    stop.on_end(SimpleNamespace())
    assert stop.received == 15
