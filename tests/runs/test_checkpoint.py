import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax.runs import checkpoint, storage
from cnnjax.runs.digest import digest_arrays, digest_directory
from cnnjax.training import Callback, EarlyStopping, create_state, fit, make_train_step
from tests.training.nets import TinyNet, random_batch

TINY, ADAM, STEP = TinyNet(), optax.chain(optax.clip(1.0), optax.adam(0.01)), make_train_step()
TRAIN = [random_batch(seed) for seed in range(4)]


def new_state(model=TINY, tx=ADAM):
    return create_state(model, tx, (6, 5, 2), key=jax.random.key(0))


def run(folder, *callbacks, state=None, epochs=2, resume=None, **options):
    saver = checkpoint.Checkpoints(folder, every_seconds=0.0, **options)
    state = new_state() if state is None else state
    return fit(
        state,
        lambda epoch, start=0: TRAIN[start:],
        TRAIN[:1],
        epochs=epochs,
        callbacks=[*callbacks, saver],
        train_step=STEP,
        progress=False,
        resume=resume,
    )


def newest(folder):
    """Return the newest checkpoint's folder."""
    return storage.checkpoint_dirs(folder)[-1]


class StopAt(Callback):
    def __init__(self, step):
        self.at = step

    def on_step(self, loop):
        if loop.step == self.at:
            loop.stop("test", now=True)


def test_a_state_comes_back_bit_for_bit(tmp_path):
    state, _ = run(tmp_path)
    found = newest(tmp_path)
    assert storage.is_final(found)
    arrays, position = storage.load(found)
    restored = checkpoint.restore_state(new_state(), arrays)
    chex.assert_trees_all_equal(jax.random.key_data(restored.key), jax.random.key_data(state.key))
    chex.assert_trees_all_equal(restored.replace(key=None), state.replace(key=None))
    chex.assert_trees_all_equal_dtypes(restored.params, state.params)
    assert (position["epoch"], position["batch"], position["step"]) == (2, 0, 8)
    STEP(restored, TRAIN[0])  # donation finds no view of NumPy's in the way
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(restored.params))


@pytest.mark.parametrize("stop", [3, 4, 6])
def test_a_run_resumed_from_disk_has_the_uninterrupted_runs_digest(tmp_path, stop):
    run(tmp_path / "whole", EarlyStopping(patience=5))
    run(tmp_path / "parts", EarlyStopping(patience=5), StopAt(stop))
    found = newest(tmp_path / "parts")
    assert not storage.is_final(found)
    arrays, position = storage.load(found)
    resume = (position, checkpoint.callback_arrays(arrays))
    run(
        tmp_path / "parts",
        EarlyStopping(patience=5),
        state=checkpoint.restore_state(new_state(), arrays),
        resume=resume,
    )
    digests = []
    for name in ("whole", "parts"):
        found = newest(tmp_path / name)
        digests.append(digest_directory(found))
    assert digests[0] == digests[1]


def test_bfloat16_and_scalars_survive(tmp_path):
    arrays = {"a/b": np.asarray(jnp.arange(3, dtype=jnp.bfloat16)), "c": np.array(3, np.int32)}
    storage.save(tmp_path / "step-1", arrays, {"epoch": 0})
    loaded, _ = storage.load(tmp_path / "step-1")
    chex.assert_trees_all_equal(loaded, arrays)
    chex.assert_trees_all_equal_dtypes(loaded, arrays)


def test_only_the_newest_are_kept_and_steps_are_saved_too(tmp_path):
    run(tmp_path, every_steps=3, keep=3)
    names = [p.name for p in storage.checkpoint_dirs(tmp_path)]
    assert names == ["step-000000004-epoch-00001", "step-000000006-epoch-00001", "step-000000008-epoch-00002-final"]


def test_a_save_that_fails_is_loud_and_leaves_the_earlier_ones(tmp_path, monkeypatch):
    storage.save(tmp_path / "step-1", {"a": np.ones(3)}, {"epoch": 0})
    with pytest.raises(storage.CheckpointError, match=r"could not save the checkpoint .*step-2.* untouched"):
        storage.save(tmp_path / "step-2", {"a": np.ones((0, 3))}, {"epoch": 1})  # Orbax takes no empty array
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(storage.CheckpointError, match="could not save"):
        storage.save(blocked / "checkpoints" / "step-1", {"a": np.ones(3)}, {})


def test_what_a_killed_save_left_is_no_checkpoint_and_goes(tmp_path):
    left = tmp_path / "step-000000009-epoch-00001.orbax-checkpoint-tmp"
    left.mkdir()
    assert storage.checkpoint_dirs(tmp_path) == []
    storage.save(tmp_path / "step-1", {"a": np.ones(3)}, {})
    assert not left.exists()


def test_a_damaged_or_missing_checkpoint_is_named(tmp_path):
    storage.save(tmp_path / "step-1", {"a": np.ones(3)}, {"epoch": 0})
    for file in (tmp_path / "step-1" / "arrays").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(storage.CheckpointError, match=r"could not read the checkpoint .*step-1"):
        storage.load(tmp_path / "step-1")
    with pytest.raises(storage.CheckpointError, match="could not read"):
        storage.load(tmp_path / "step-7")


def test_a_flipped_byte_is_seen_and_the_one_before_is_taken(tmp_path):
    for step in (1, 2):
        storage.save(tmp_path / f"step-{step}", {"a": np.arange(64.0) + step}, {"epoch": step})
    files = [f for f in (tmp_path / "step-2" / "arrays").rglob("*") if f.is_file() and f.parent.name == "d"]
    seen = 0
    for file in files:
        whole = file.read_bytes()
        for at in range(0, len(whole), 23):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
            try:
                arrays, _ = storage.load(tmp_path / "step-2")
            except storage.CheckpointError:
                seen += 1
                newest_whole = storage.load_newest(tmp_path)
                assert newest_whole is not None
                path, _, position, damaged = newest_whole
                assert (path.name, position["epoch"], len(damaged)) == ("step-1", 1, 1)
                assert "step-2" in damaged[0]
            else:  # a byte that nothing reads
                np.testing.assert_array_equal(arrays["a"], np.arange(64.0) + 2)
        file.write_bytes(whole)
    assert seen > 0
    assert storage.load_newest(tmp_path / "none") is None


def test_a_checkpoint_of_another_net_does_not_fit():
    arrays = checkpoint.flatten_state(new_state())
    with pytest.raises(storage.CheckpointError, match=r"Dense_0/bias is float32\[4\] in it, expected float32\[7\]"):
        checkpoint.restore_state(new_state(TinyNet(num_classes=7)), arrays)
    other = new_state(tx=optax.sgd(0.1))
    with pytest.raises(storage.CheckpointError, match=r"opt_state/.* is .* in it, expected nothing"):
        checkpoint.restore_state(other, arrays)
    restored = checkpoint.restore_variables(other, arrays)
    chex.assert_trees_all_equal(restored.params, new_state().params)


def test_the_digest_sees_every_bit_and_nothing_else():
    arrays = checkpoint.flatten_state(new_state())
    position = {"epoch": 1, "batch": 2, "metrics": None, "callbacks": {}, "seconds": 1.0, "history": [{"seconds": 3}]}
    reference = digest_arrays(arrays, position)
    assert digest_arrays(dict(reversed(arrays.items())), {**position, "seconds": 9.0, "history": []}) == reference
    for name, value in arrays.items():
        flipped = value.copy()
        flipped.reshape(-1).view(np.uint8)[-1] ^= 1
        changed = digest_arrays({**arrays, name: flipped}, position)
        assert [k for k in reference["leaves"] if reference["leaves"][k] != changed["leaves"][k]] == [name]
        assert changed["digest"] != reference["digest"]
    for name, value in (("epoch", 2), ("batch", 3), ("metrics", {"loss_sum": 1.0}), ("callbacks", {"a": 1})):
        assert digest_arrays(arrays, {**position, name: value})["digest"] != reference["digest"]
    scalar = {"step": np.array(1, np.int32)}
    assert digest_arrays(scalar, {}) != digest_arrays({"step": np.array([1], np.int32)}, {})
    assert json.dumps(reference)
