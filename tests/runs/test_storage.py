"""One checkpoint on the disk: whole or not there, whenever the process dies and whatever the disk does."""

import json
import os
import pathlib
import shutil

import chex
import numpy as np
import pytest

from cnnjax import files
from cnnjax.runs import storage
from cnnjax.runs.manifest import MANIFEST
from cnnjax.runs.retention import Best, CheckpointRetention
from tests.runs.tiny_run import small


def position(step, **more):
    return {"step": step, "epoch": step, "batch": 0, "history": [{"step": step, "val_loss": float(step % 3)}], **more}


def save(folder, step, seed=None):
    return storage.save(folder / f"step-{step:03d}", small(step if seed is None else seed), position(step))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class Crash(BaseException):
    """The process is killed here: nothing catches it."""


class Operations:
    """Record what is asked of the system; be killed before, or with `after` after, the nth time."""

    NAMES = ("mkdir", "rename", "fsync", "unlink", "rmdir", "open")

    def __init__(self, monkeypatch, crash_at=None, *, after=False):
        self.done, self.crash_at, self.after = [], crash_at, after
        for name in self.NAMES:
            monkeypatch.setattr(os, name, self._watched(name, getattr(os, name)))
        monkeypatch.setattr(files, "write_file", self._written(files.write_file))

    def _watched(self, name, function):
        def call(*args, **options):
            what = [os.readlink(f"/proc/self/fd/{a}") if isinstance(a, int) and name == "fsync" else a for a in args]
            return self._do(name, what, lambda: function(*args, **options))

        return call

    def _written(self, function):
        def call(path, pieces):
            if self.crash_at == len(self.done):  # in the middle of the file
                path.write_bytes(b"".join(bytes(piece) for piece in pieces)[:50])
                raise Crash
            self._do("write", [path], lambda: None)
            return function(path, pieces)

        return call

    def _do(self, name, args, function):
        here = len(self.done)
        if here == self.crash_at and not self.after:
            raise Crash
        result = function()
        self.done.append((name, *(pathlib.Path(a) for a in args if isinstance(a, str | pathlib.Path))))
        if here == self.crash_at:
            raise Crash
        return result


def save_and_prune(folder):
    save(folder, 8)
    CheckpointRetention(folder, 2, Best("val_loss")).prune()


def filled(folder):
    """Fill a folder with three checkpoints, of which the first is the best and the second can go."""
    for step in (3, 4, 5):
        save(folder, step)
    return folder


def test_a_kill_at_any_operation_leaves_only_whole_checkpoints(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        count = len(_operations(filled(tmp_path / "count"), patch))
    assert count > 10
    kinds = set()
    for crash_at in range(count):
        for after in (False, True):
            folder = filled(tmp_path / f"{crash_at}-{after}")
            with monkeypatch.context() as patch:
                Operations(patch, crash_at, after=after)
                with pytest.raises(Crash):
                    save_and_prune(folder)
            newest = storage.load_newest(folder)
            assert newest[3] == []
            step = newest[2]["step"]
            chex.assert_trees_all_equal(newest[1], small(step))
            there = {storage.step_of(path) for path in CheckpointRetention(folder, 9).whole()}
            assert {3, 5} <= there
            assert there == {storage.step_of(path) for path in storage.checkpoint_dirs(folder)}
            kinds.add((step, 4 in there, any(n.startswith("writing") for n in names(folder))))
            save_and_prune(folder)  # the run goes on
            assert names(folder) == ["step-003", "step-005", "step-008"]
    # Killed while writing, between writing and renaming, before cleaning up, and while or after cleaning up.
    assert {(5, True, True), (8, True, False), (8, False, False)} <= kinds


def _operations(folder, patch):
    operations = Operations(patch)
    save_and_prune(folder)
    return operations.done


def test_all_is_on_the_disk_before_it_has_its_name_and_before_anything_goes(tmp_path, monkeypatch):
    folder = filled(tmp_path)
    with monkeypatch.context() as patch:
        done = _operations(folder, patch)
    aside, target = folder / "writing-step-008", folder / "step-008"
    renamed = done.index(("rename", aside, target))
    before = done[:renamed]
    files = [d[1] for d in before if d[0] == "write"]
    assert {f.name for f in files} == {storage.ARRAYS, storage.POSITION, MANIFEST}
    assert files[-1].name == MANIFEST
    for file in files:
        assert before.index(("write", file)) < before.index(("fsync", file))
    assert before[-1][:2] == ("fsync", aside) or before[-2][:2] == ("fsync", aside)
    old = next(place for place, d in enumerate(done) if d[0] == "rename" and d[1].name == "step-004")
    assert ("fsync", folder) in done[renamed:old]
    assert done[old][2].name == "deleting-step-004"
    gone = next(place for place, d in enumerate(done) if d[0] == "unlink" and place > old)
    assert ("fsync", folder) in done[old:gone]


def test_a_new_folder_is_on_the_disk_too(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        operations = Operations(patch)
        save(tmp_path / "run" / "checkpoints", 1)
    for parent in (tmp_path, tmp_path / "run", tmp_path / "run" / "checkpoints"):
        assert ("fsync", parent) in operations.done


@pytest.mark.parametrize("operation", ["open", "fsync", "mkdir", "rename"])
def test_a_save_that_fails_at_any_operation_is_loud_and_leaves_the_earlier_ones(tmp_path, monkeypatch, operation):
    folder = filled(tmp_path)
    with monkeypatch.context() as patch:
        count = sum(done[0] == operation for done in _operations(filled(tmp_path / "count"), patch))
    shutil.rmtree(tmp_path / "count")
    for fails_at in range(count):
        with monkeypatch.context() as patch:
            calls = iter(range(10**6))
            function = getattr(os, operation)

            def failing(*args, function=function, calls=calls, fails_at=fails_at, **options):
                if next(calls) == fails_at:
                    raise OSError(28, "No space left on device")
                return function(*args, **options)

            patch.setattr(os, operation, failing)
            said = ""
            try:
                storage.save(folder / "step-008", small(8), position(8))
            except storage.CheckpointError as error:
                said = str(error)
        assert (folder / "step-008").exists() == (said == "")
        if said:
            assert said == (
                f"could not save the checkpoint {folder / 'step-008'}: No space left on device. "
                "The earlier checkpoints are untouched."
            )
        else:  # it failed at what is not needed, or there were fewer calls
            assert storage.load(folder / "step-008")[1] == position(8)
            shutil.rmtree(folder / "step-008")
        assert names(folder) == ["step-003", "step-004", "step-005"]


def test_every_kind_of_array_and_position_comes_back(tmp_path):
    arrays, where = small(1), position(1, metrics={"loss_sum": 0.1 + 0.2, "nan": None}, words="ü\n")
    path = storage.save(tmp_path / "step-1", arrays, where)
    loaded, found = storage.load(path)
    chex.assert_trees_all_equal(loaded, arrays)
    assert {n: (v.dtype, v.shape) for n, v in loaded.items()} == {n: (v.dtype, v.shape) for n, v in arrays.items()}
    assert found == where
    empty = storage.save(tmp_path / "step-2", {}, {})
    assert storage.load(empty) == ({}, {})
    with pytest.raises(storage.CheckpointError, match=r"could not save .*step-3: a is object, expected one of float64"):
        storage.save(tmp_path / "step-3", {"a": np.array(None)}, {})
    with pytest.raises(storage.CheckpointError, match=r"could not save .*step-3: .*not JSON serializable"):
        storage.save(tmp_path / "step-3", {}, {"a": np.ones(2)})
    assert names(tmp_path) == ["step-1", "step-2"]


def test_a_second_save_at_one_step_goes_beside_what_is_not_the_same(tmp_path):
    first = save(tmp_path, 7)
    assert save(tmp_path, 7) == first  # nothing new to say
    (first / storage.ARRAYS).write_bytes(b"")
    second = save(tmp_path, 7)
    third = save(tmp_path, 7, seed=1)
    assert [p.name for p in (second, third)] == ["step-007.2", "step-007.3"]
    assert (first / storage.ARRAYS).read_bytes() == b""
    (tmp_path / "step-008").mkdir()  # empty, and so a name that a rename would take
    (tmp_path / "step-009").write_text("a file")
    (tmp_path / "step-010").symlink_to("nowhere")
    for step in (8, 9, 10):
        assert save(tmp_path, step).name == f"step-{step:03d}.2"
    assert list((tmp_path / "step-008").iterdir()) == []
    assert (tmp_path / "step-009").read_text() == "a file"
    order = [path.name for path in storage.checkpoint_dirs(tmp_path)]
    assert order[:3] == ["step-007", "step-007.2", "step-007.3"]
    final = storage.save(tmp_path / "step-010-epoch-00002-final", small(1), {})
    assert storage.is_final(final)
    assert storage.checkpoint_dirs(tmp_path)[-1] == final


def test_what_killed_processes_left_is_no_checkpoint_and_goes_and_nothing_else_does(tmp_path):
    for name in ("writing-step-000000009-epoch-00001", "deleting-step-1", "notes", "step-1-old", "step-2.orbax-tmp-3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    (tmp_path / "writing-step-4").write_text("")
    assert storage.checkpoint_dirs(tmp_path) == []
    assert storage.load_newest(tmp_path) is None
    save(tmp_path, 1)
    assert names(tmp_path) == ["notes", "step-001", "step-1-old", "step-2.orbax-tmp-3"]


def test_a_format_that_is_not_read_is_named(tmp_path):
    old = tmp_path / "step-000000001-epoch-00001"
    (old / "arrays").mkdir(parents=True)
    (old / "_CHECKPOINT_METADATA").write_text("{}")
    with pytest.raises(storage.CheckpointError, match=r"older format, Orbax's and without manifest.json"):
        storage.load_newest(tmp_path)
    path = save(tmp_path, 2)
    assert storage.load_newest(tmp_path)[::3] == (path, [])
    content = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps({**content, "format": "cnnjax checkpoint 2"}, indent=2) + "\n")
    with pytest.raises(storage.CheckpointError, match=r"manifest\.json is not what was written"):
        storage.load(path)
    from cnnjax.runs import manifest

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "_FORMAT", "cnnjax checkpoint 2")
        newer = save(tmp_path, 3)
    with pytest.raises(storage.CheckpointError, match="'cnnjax checkpoint 2', expected 'cnnjax checkpoint 1': another"):
        storage.load(newer)


def test_a_checkpoint_under_another_steps_name_is_refused(tmp_path):
    shutil.copytree(save(tmp_path, 4), tmp_path / "step-009")
    newest = storage.load_newest(tmp_path)
    assert (newest[0].name, newest[3]) == (
        "step-004",
        [f"the checkpoint {tmp_path / 'step-009'} is damaged: it is of step 4, which is not the one in its name."],
    )


def test_a_run_may_take_a_checkpoint_away_while_another_process_reads(tmp_path, monkeypatch):
    save(tmp_path, 1)
    list_them, calls = storage.checkpoint_dirs, iter(range(100))

    def listed_too_early(directory):
        found = list_them(directory)
        if next(calls) == 0:
            save(tmp_path, 2)
            storage.remove(tmp_path / "step-001")
        return found

    monkeypatch.setattr(storage, "checkpoint_dirs", listed_too_early)
    assert storage.load_newest(tmp_path)[2]["step"] == 2


def test_a_workdir_may_be_moved_and_hold_links(tmp_path):
    save(tmp_path / "a", 1)
    (tmp_path / "a").rename(tmp_path / "b")
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "b" / "step-001").rename(elsewhere)
    (tmp_path / "b" / "step-001").symlink_to(elsewhere)
    (tmp_path / "c").symlink_to(tmp_path / "b")
    save(tmp_path / "c", 2)
    assert storage.load(tmp_path / "c" / "step-001")[1]["step"] == 1
    CheckpointRetention(tmp_path / "c", 1).prune()
    assert names(tmp_path / "b") == ["step-002"]
    assert storage.load(elsewhere)[1]["step"] == 1  # what a link leads to is not ours to delete
