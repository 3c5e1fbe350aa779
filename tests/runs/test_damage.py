"""Whatever happens to a checkpoint on the disk is noticed, said, and survived."""

import collections
import os
import random
import shutil

import chex
import pytest

from cnnjax import runs
from cnnjax.runs import storage
from cnnjax.runs.manifest import MANIFEST
from cnnjax.training import EarlyStopping
from tests.runs.tiny_run import new_state, run

FILES = (storage.ARRAYS, storage.POSITION, MANIFEST)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """Two checkpoints of a real run, early stopping's parameters among their arrays."""
    folder = tmp_path_factory.mktemp("pristine")
    run(folder, EarlyStopping(patience=5), every_steps=3)
    assert {file.name for path in storage.checkpoint_dirs(folder) for file in path.iterdir()} == set(FILES)
    return folder


def truncate(file, chance):
    os.truncate(file, chance.randrange(file.stat().st_size))


def flip_a_byte(file, chance):
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= chance.randrange(1, 256)
    file.write_bytes(content)


def delete(file, chance):
    del chance
    file.unlink()


def zero(file, chance):
    content = bytearray(file.read_bytes())
    begin = chance.choice([place for place, byte in enumerate(content) if byte])
    end = chance.randrange(begin + 1, len(content) + 1)
    content[begin:end] = bytes(end - begin)
    file.write_bytes(content)


def lengthen(file, chance):
    file.write_bytes(file.read_bytes() + bytes(chance.randrange(1, 5000)))


def take_the_others(file, chance):
    """Put the same file of the checkpoint before in its place."""
    del chance
    shutil.copy(file.parent.parent / OLDER / file.name, file)


def turn_into_a_folder(file, chance):
    del chance
    file.unlink()
    file.mkdir()


def turn_into_a_pipe(file, chance):
    del chance
    file.unlink()
    os.mkfifo(file)  # reading it would never end


DAMAGES = (truncate, flip_a_byte, delete, zero)
RARE = (lengthen, take_the_others, turn_into_a_folder, turn_into_a_pipe)
OLDER, NEWER = "step-000000006-epoch-00001", "step-000000008-epoch-00002-final"


def plan():
    """Return 200 damages: every kind to every file, chance deciding where."""
    cases = [(damage, name) for damage in DAMAGES for name in FILES] * 16
    return [*cases[:188], *((damage, name) for damage in RARE for name in FILES)]


def test_two_hundred_damages_are_named_and_survived(pristine, tmp_path):
    assert [path.name for path in storage.checkpoint_dirs(pristine)] == [OLDER, NEWER]
    older = storage.load(pristine / OLDER)
    counts = collections.Counter()
    for seed, (damage, name) in enumerate(plan()):
        folder = tmp_path / str(seed)
        shutil.copytree(pristine, folder)
        damage(folder / NEWER / name, random.Random(seed))
        # A manifest of another checkpoint is whole in itself, and then its files are not what it says.
        named = storage.ARRAYS if (damage, name) == (take_the_others, MANIFEST) else name
        with pytest.raises(storage.CheckpointError, match=f"^the checkpoint {folder / NEWER} is damaged: {named} "):
            storage.load(folder / NEWER)
        newest = storage.load_newest(folder)
        assert newest is not None
        path, arrays, position, damaged = newest
        assert path == folder / OLDER
        chex.assert_trees_all_equal(arrays, older[0])
        assert position == older[1]
        (line,) = damaged
        assert str(folder / NEWER) in line
        assert named in line
        assert (folder / NEWER).is_dir()
        counts[damage] += 1
    assert sum(counts.values()) == 200
    assert min(counts[damage] for damage in DAMAGES) >= 40


def test_a_flip_of_each_single_byte_is_seen(pristine, tmp_path):
    shutil.copytree(pristine / NEWER, tmp_path / NEWER)
    for name in FILES:
        file = tmp_path / NEWER / name
        whole = file.read_bytes()
        step = 1 if name != storage.ARRAYS else 7
        for place in range(0, len(whole), step):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
            with pytest.raises(storage.CheckpointError, match=rf"is damaged: {name} is not what was written"):
                storage.load(tmp_path / NEWER)
        file.write_bytes(whole)
    storage.load(tmp_path / NEWER)


def test_a_run_goes_on_from_the_one_before_and_saves_beside_the_damaged_one(pristine, tmp_path, caplog):
    whole = runs.digest_directory(pristine / NEWER)
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    flip_a_byte(tmp_path / NEWER / storage.ARRAYS, random.Random(0))
    damaged = (tmp_path / NEWER / storage.ARRAYS).read_bytes()
    for _ in range(2):
        newest = runs.load_newest(tmp_path)
        assert newest is not None
        path, arrays, position, _ = newest
        resume = (position, runs.callback_arrays(arrays))
        state = runs.restore_state(new_state(), arrays)
        run(tmp_path, EarlyStopping(patience=5), state=state, resume=resume, every_steps=3)
        found = [path.name for path in storage.checkpoint_dirs(tmp_path)]
        assert found == [OLDER, NEWER, f"{NEWER}.2"]
        assert storage.is_final(tmp_path / f"{NEWER}.2")
        again = runs.digest_directory(tmp_path / f"{NEWER}.2")
        assert (again["digest"], again["leaves"]) == (whole["digest"], whole["leaves"])
        assert runs.load_newest(tmp_path)[0].name == f"{NEWER}.2"
    assert (tmp_path / NEWER / storage.ARRAYS).read_bytes() == damaged
    assert path.name == f"{NEWER}.2"
    assert sum("It stays" in line for line in caplog.messages) == 2  # once in each run


def test_when_all_are_damaged_nothing_is_begun_anew(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    (tmp_path / OLDER / MANIFEST).unlink()
    shutil.rmtree(tmp_path / NEWER)
    (tmp_path / NEWER).write_text("a file")
    with pytest.raises(storage.CheckpointError) as caught:
        runs.load_newest(tmp_path)
    said = str(caught.value)
    assert f"{OLDER} is damaged: manifest.json is missing." in said
    assert f"could not read the checkpoint {tmp_path / NEWER}: it is no folder." in said
    assert said.endswith(f"No checkpoint in {tmp_path} is whole.")


def test_what_lies_beside_the_files_does_not_matter(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path, dirs_exist_ok=True)
    (tmp_path / NEWER / ".nfs0001").write_text("left by the file system")
    (tmp_path / "README").write_text("a person's own words")
    assert runs.load_newest(tmp_path)[0].name == NEWER
