"""Disks that are full, or may only be read: one line says so, and what was saved before can be gone on from."""

import contextlib
import os
import pathlib
import resource
import subprocess
import sys

import pytest

from cnnjax import files, runs
from cnnjax.errors import CnnjaxError, UsageError
from cnnjax.runs import Workdir, storage
from cnnjax.training import Callback
from tests.runs.tiny_run import new_state, run

ROOT = pathlib.Path(__file__).parents[2]


class Disk:
    """A small disk of its own where the system lets us mount one; else the nearest that it lets us do."""

    SIZE = 400_000

    def __init__(self, path):
        self.path = path
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={self.SIZE}", "tmpfs", str(path)]
        self.mounted, self.views = _works(command), []

    def fill(self):
        """Leave no room, but for a file of a few bytes."""
        if not self.mounted:  # the system refuses to write on in the same way
            resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            return
        with (self.path / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def free(self):
        if self.mounted:
            (self.path / "filler").unlink(missing_ok=True)
        else:
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    def read_only(self):
        """Return the path under which the disk can only be read."""
        if self.mounted:
            view = self.path.with_name("view")
            view.mkdir()
            subprocess.run(["mount", "--bind", str(self.path), str(view)], check=True)
            self.views.append(view)
            subprocess.run(["mount", "-o", "remount,bind,ro", str(view)], check=True)
            return view
        for folder, _, names in os.walk(self.path):
            for name in names:
                os.chmod(os.path.join(folder, name), 0o444)
            os.chmod(folder, 0o555)
        return self.path

    @property
    def refuses(self):
        """Whether what can only be read refuses a write: the superuser writes past permissions."""
        return self.mounted or os.geteuid() != 0

    def close(self):
        self.free()
        for path in [*self.views, *([self.path] if self.mounted else [])]:
            subprocess.run(["umount", "-l", str(path)], check=True)


def _works(command):
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.close()


FULL = r"(No space left on device|File too large)"


def test_a_disk_that_fills_up_ends_the_run_in_one_line_and_it_goes_on_when_there_is_room(disk, tmp_path):
    run(tmp_path / "whole", every_steps=3, epochs=4)
    expected = runs.digest_directory(storage.checkpoint_dirs(tmp_path / "whole")[-1])
    folder = disk.path / "checkpoints"

    class Fill(Callback):
        def on_step(self, loop):
            if loop.step == 7:
                loop.callbacks[-1].writer.wait()
                disk.fill()

    with pytest.raises(
        storage.CheckpointError, match=rf"^could not save .*step-\S+: {FULL}\. The earlier .*\.$"
    ) as told:
        run(folder, Fill(), every_steps=3, epochs=4)
    assert "\n" not in str(told.value)
    with pytest.raises(storage.CheckpointError, match=FULL):  # still full
        run(folder, every_steps=3, epochs=4, **resume(folder, 6))
    disk.free()
    run(folder, every_steps=3, epochs=4, **resume(folder, 6))
    found = runs.digest_directory(storage.checkpoint_dirs(folder)[-1])
    assert found == expected
    assert {path.name.partition("-")[0] for path in folder.iterdir()} == {"step"}


def resume(folder, step):
    """Return what to go on with, after checking that it is the checkpoint of that step."""
    newest = runs.load_newest(folder)
    assert newest is not None
    path, arrays, position, damaged = newest
    assert (storage.step_of(path), damaged) == (step, [])
    return {
        "state": runs.restore_state(new_state(), arrays),
        "resume": (position, runs.callback_arrays(arrays)),
    }


def test_other_files_on_a_full_disk_stay_as_they_were(disk):
    path = disk.path / "history.csv"
    files.write_text(path, "before\n")
    disk.fill()
    with pytest.raises(CnnjaxError, match=rf"^cannot write {path}: {FULL}\.$"):
        files.write_text(path, "after\n" * 2000)
    disk.free()
    assert [p.name for p in disk.path.iterdir()] == ["history.csv"]
    assert path.read_text() == "before\n"


@contextlib.contextmanager
def held(path):
    """Let another process hold a workdir."""
    code = f"from cnnjax.runs import Workdir; w = Workdir({str(path)!r}); print('held', flush=True); input()"
    command = [sys.executable, "-c", code]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert holder.stdout.readline() == "held\n"
        yield holder.pid
    finally:
        holder.kill()
        holder.communicate()


def test_a_held_workdir_is_refused_by_name_on_a_full_and_on_a_read_only_disk(disk):
    path = disk.path / "run"
    with held(path) as pid:
        disk.fill()
        with pytest.raises(UsageError, match=f"is in use by process {pid} on"):
            Workdir(path)
        disk.free()
        path = disk.read_only() / "run"
        with pytest.raises(UsageError, match=f"is in use by process {pid} on"):
            Workdir(path)
    if disk.refuses:  # its holder is dead, and still it can't be written
        with pytest.raises(CnnjaxError, match=rf"^cannot write the workdir {path}: (Read-only file|Permission)"):
            Workdir(path)


def test_a_full_disk_takes_no_new_run_and_a_read_only_one_still_says_what_it_has_found(disk):
    if disk.mounted:
        disk.fill()
        with pytest.raises(CnnjaxError, match=r"^cannot write the workdir .*: No space left on device\.$"):
            Workdir(disk.path / "new" / "run")
        disk.free()
    with Workdir(disk.path / "run") as workdir:
        workdir.record({"model": "a"}, {"digests": {}})
        workdir.finish({"test_accuracy": 0.5})
    with Workdir(disk.read_only() / "run") as workdir:
        assert workdir.compare({"model": "a"}) == []
        assert workdir.result == {"test_accuracy": 0.5}
        if disk.refuses:
            with pytest.raises(CnnjaxError, match=r"^cannot write .*result\.json: (Read-only file|Permission)"):
                workdir.finish({})


def test_where_no_folder_can_be_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    for path, reason in ((tmp_path / "file", "File exists"), (pathlib.Path("/proc/run"), "No such file or directory")):
        with pytest.raises(CnnjaxError, match=rf"^cannot write the workdir {path}: {reason}\.$"):
            Workdir(path)
    for folder in (tmp_path / "file", tmp_path / "file" / "checkpoints", pathlib.Path("/proc/run/checkpoints")):
        with pytest.raises(storage.CheckpointError, match=r"^could not save the checkpoint .* are untouched\.$"):
            run(folder, epochs=1)
        assert runs.load_newest(folder) is None
