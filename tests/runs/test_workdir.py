import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import pytest

from cnnjax import files
from cnnjax.errors import CnnjaxError, UsageError
from cnnjax.runs import StopOnSignal, Workdir, default_workdir, environment, read_run
from cnnjax.training import fit
from tests.runs.tiny_run import STEP, TRAIN, new_state

CONFIG = {"model": "lenet5", "augment": ("translate:2",), "batch_size": 32}
DATA = {"digests": {"train": "ab"}, "source": "here"}


def test_a_workdir_records_its_run_once(tmp_path):
    with Workdir(tmp_path / "a" / "b") as workdir:
        assert workdir.compare(CONFIG) == []
        workdir.record(CONFIG, DATA)
        assert workdir.compare(CONFIG) == []  # a tuple is a list in JSON
        workdir.record(CONFIG, {**DATA, "source": "elsewhere"})  # the same data from another place
        assert workdir.result is None
        workdir.finish({"test_accuracy": 0.99})
        assert workdir.result == {"test_accuracy": 0.99}
    config, data = read_run(tmp_path / "a" / "b")
    assert config == {**CONFIG, "augment": ["translate:2"]}
    assert data == DATA
    assert {"python", "jax", "cores", "machine", "devices", "XLA_FLAGS", "jax_enable_x64"} <= set(environment())
    assert json.loads(json.dumps(environment())) == environment()


def test_another_configuration_or_other_data_are_refused_with_the_difference(tmp_path):
    with Workdir(tmp_path) as workdir:
        workdir.record(CONFIG, DATA)
        with pytest.raises(UsageError, match="another configuration: batch_size 32 there, 64 here"):
            workdir.compare({**CONFIG, "batch_size": 64})
        long = {**CONFIG, "augment": ["translate:4", "cutout:8", "randaugment:2:9", "colour-jitter:0.4", "mixup:0.2"]}
        with pytest.raises(UsageError, match=r"augment .*translate:2.* there, .*translate:4', 'cutout:8', 'ran.* here"):
            workdir.compare(long)
        with pytest.raises(UsageError, match="digests"):
            workdir.record(CONFIG, {**DATA, "digests": {"train": "cd"}})


def test_other_versions_are_a_warning(tmp_path, monkeypatch):
    with Workdir(tmp_path) as workdir:
        workdir.record(CONFIG, DATA)
        monkeypatch.setattr("cnnjax.runs.workdir.environment", lambda used: {**environment(used), "jax": "0.0.1"})
        (warning,) = workdir.compare(CONFIG)
        assert "jax" in warning
        assert "0.0.1 here" in warning.replace("'", "")


def test_other_settings_that_can_change_bits_are_a_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--b=1 --a --xla_dump_to=/somewhere")
    with Workdir(tmp_path) as workdir:
        workdir.record(CONFIG, DATA)
        monkeypatch.setenv("XLA_FLAGS", "--a  --b=1")  # what is written beside changes no bit, nor does the order
        assert workdir.compare(CONFIG) == []
        monkeypatch.setenv("XLA_FLAGS", "--a")
        with jax.default_matmul_precision("bfloat16"):
            flags, precision = workdir.compare(CONFIG)
        assert "XLA_FLAGS '--a --b=1' there, '--a' here: it is no longer bit for bit" in flags
        assert "jax_default_matmul_precision None there, 'bfloat16' here" in precision
        monkeypatch.setenv("XLA_FLAGS", "--a --b=1")
        monkeypatch.setenv("CNNJAX_CPU_OPS", "off")
        (algorithms,) = workdir.compare(CONFIG)
        assert "CNNJAX_CPU_OPS '' there, 'off' here" in algorithms


def test_another_number_of_devices_at_work_is_a_warning(tmp_path):
    with Workdir(tmp_path) as workdir:
        workdir.record(CONFIG, DATA, devices=1)
        (warning,) = workdir.compare(CONFIG, devices=2)
        assert "used_devices 1 there, 2 here" in warning


def test_a_lock_file_that_its_holder_removes_is_not_held_by_two(tmp_path, monkeypatch):
    """Between opening the file and locking it, the holder goes and another process makes it anew."""
    path = tmp_path / "lock"
    path.write_text("")
    flock, others = fcntl.flock, []

    def late(file, operation):
        if not others:
            path.unlink()
            others.append(path.open("w"))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with Workdir(tmp_path):
        assert path.read_text().startswith(f"process {os.getpid()} on ")
        other = path.open()
        with pytest.raises(BlockingIOError):
            flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        other.close()
    others[0].close()


def test_a_held_workdir_is_refused_naming_the_holder_and_free_after_its_death(tmp_path):
    code = f"from cnnjax.runs import Workdir; w = Workdir({str(tmp_path)!r}); print('held', flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=f"is in use by process {holder.pid} on"):
            Workdir(tmp_path)
    finally:
        holder.kill()
        holder.communicate()
    Workdir(tmp_path).close()


def test_who_holds_a_workdir_is_known_before_anything_heavy_is_imported(tmp_path):
    files.check_lock(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []
    with Workdir(tmp_path / "run"), pytest.raises(UsageError, match=f"is in use by process {os.getpid()} on"):
        files.check_lock(tmp_path / "run")
    files.check_lock(tmp_path / "run")
    code = "import sys, cnnjax.files; print([name for name in ('jax', 'numpy', 'flax') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_path_that_cannot_be_a_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(CnnjaxError, match=r"cannot write the workdir .*file"):
            Workdir(path)
    with pytest.raises(CnnjaxError, match="no run in"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(CnnjaxError, match="cannot read"):
        read_run(tmp_path)


def test_the_default_workdir_is_a_new_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = set()
    for _ in range(3):
        path = default_workdir("my.net:Net", "folder:some/where")
        paths.add(path)
    assert len(paths) == 3
    assert all(p.parent.name == "runs" and p.name.startswith("my-net-Net-folder-some-where-20") for p in paths)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step_and_is_given_back(number):
    before = signal.getsignal(number)
    stop = StopOnSignal()

    def batches(epoch, start=0):
        for at, batch in enumerate(TRAIN[start:]):
            if (epoch, at) == (1, 1):
                os.kill(os.getpid(), number)
            yield batch

    state, history = fit(new_state(), batches, epochs=5, callbacks=[stop], train_step=STEP, progress=False)
    assert (int(state.step), len(history), stop.received) == (6, 1, number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once_and_says_so(number):
    code = (
        "import os\n"
        "from cnnjax.runs import StopOnSignal\n"
        "from cnnjax.training import fit\n"
        "from tests.runs.tiny_run import STEP, TRAIN, new_state\n"
        "def batches(epoch, start=0):\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    yield TRAIN[0]\n"
        "fit(new_state(), batches, epochs=5, callbacks=[StopOnSignal()], train_step=STEP, progress=False)\n"
    )
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 128 + number
    first, second = done.stderr.splitlines()
    assert "stopping after this step and saving" in first
    assert "left without saving" in second
