import functools
import json
import shutil
import threading
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cnnjax.runs.arrays as state_arrays
from cnnjax.errors import UsageError
from cnnjax.runs import Checkpoints, digest_arrays, digest_directory, storage
from cnnjax.runs.checkpoint import Writer
from cnnjax.training import Callback, EarlyStopping, NonFiniteError, fit
from tests.runs.tiny_run import STEP, TRAIN, StopAt, new_state, run
from tests.training.nets import TinyNet


def newest(folder):
    """Return the newest checkpoint's folder."""
    return storage.checkpoint_dirs(folder)[-1]


def names(folder):
    return [path.name for path in storage.checkpoint_dirs(folder)]


def test_a_state_comes_back_bit_for_bit(tmp_path):
    state, _ = run(tmp_path)
    found = newest(tmp_path)
    assert storage.is_final(found)
    arrays, position = storage.load(found)
    restored = state_arrays.restore_state(new_state(), arrays)
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
    resume = (position, state_arrays.callback_arrays(arrays))
    state = state_arrays.restore_state(new_state(), arrays)
    run(tmp_path / "parts", EarlyStopping(patience=5), state=state, resume=resume)
    digests = [digest_directory(newest(tmp_path / name)) for name in ("whole", "parts")]
    assert digests[0] == digests[1]


def test_any_field_of_a_state_is_saved_and_comes_back(tmp_path):
    """Averages, typed keys anywhere, other kinds of keys, nothing at all: what a field holds does not matter."""
    odd = jax.random.key(3, impl="rbg")
    fields = {"ema": {"params": {"a": jnp.ones(2, jnp.bfloat16)}, "count": jnp.int32(7)}, "key": odd}
    state = new_state().replace(**fields, opt_state=(None, {"noise": jax.random.key(5)}, ()))
    flat = state_arrays.flatten_state(state)
    path = storage.save(tmp_path / "step-0", flat, {})
    template = state.replace(
        ema=jax.tree.map(jnp.zeros_like, state.ema),
        key=jax.random.key(0, impl="rbg"),
        opt_state=(None, {"noise": jax.random.key(0)}, ()),
    )
    back = state_arrays.restore_state(template, storage.load(path)[0])
    assert jax.random.key_impl(back.key) == jax.random.key_impl(odd)
    assert back.opt_state[0] is None
    chex.assert_trees_all_equal(state_arrays.flatten_state(back), flat)
    for name in ("ema/params/a", "ema/count", "key", "opt_state/1/noise"):
        assert name in digest_arrays(flat, {})["leaves"]
    with pytest.raises(storage.CheckpointError, match=r"ema/count is int32\[\] in it, expected nothing"):
        state_arrays.restore_state(new_state().replace(opt_state=template.opt_state, key=template.key), flat)
    with pytest.raises(storage.CheckpointError, match="two arrays have the one path a/b"):
        state_arrays.flatten({"a": {"b": np.ones(1)}, "a/b": np.ones(1)})


def test_what_was_copied_is_not_what_a_step_gives_away():
    """Neither does the copy change with the state's memory, nor does it keep that memory from being donated."""
    state = new_state()
    for place in range(3):
        before = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state.params)}
        flat = state_arrays.flatten_state(state)
        reference = {name: value.tobytes() for name, value in flat.items()}
        state, _ = STEP(state, TRAIN[place])
        reused = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state.params)}
        assert reused <= before
        jax.block_until_ready(state)
        assert {name: value.tobytes() for name, value in flat.items()} == reference


def test_only_the_newest_are_kept_and_steps_are_saved_too(tmp_path):
    run(tmp_path, every_steps=3, keep=3)
    assert names(tmp_path) == [
        "step-000000004-epoch-00001",
        "step-000000006-epoch-00001",
        "step-000000008-epoch-00002-final",
    ]


def test_damaged_ones_are_neither_counted_nor_removed(tmp_path, caplog):
    class Damage(Callback):
        def on_step(self, loop):
            if loop.step == 8:
                saver.writer.wait()
                (tmp_path / "step-000000006-epoch-00001" / storage.ARRAYS).write_bytes(b"")

    saver = Checkpoints(tmp_path, every_steps=3, every_seconds=0.0, keep=2)
    fit(new_state(), lambda epoch, start=0: TRAIN[start:], epochs=3, callbacks=[Damage(), saver], progress=False)
    assert names(tmp_path) == [
        "step-000000006-epoch-00001",
        "step-000000012-epoch-00002",
        "step-000000012-epoch-00003-final",
    ]
    (line,) = caplog.messages
    assert "step-000000006-epoch-00001 is damaged: arrays.safetensors has 0 bytes" in line
    assert line.endswith("It stays, and is not counted among the checkpoints to keep.")


class Score(Callback):
    """Put other values of a metric into the history, one an epoch."""

    def __init__(self, values, name="val_loss"):
        self.values, self.name = values, name

    def on_epoch(self, loop):
        loop.history[-1][self.name] = self.values[loop.epoch - 1]


@pytest.mark.parametrize(
    ("options", "values", "best"),
    [
        ({"keep_best": "val_loss"}, [3.0, 1.0, 2.0, 1.0, 4.0], 2),  # the first of equals
        ({"keep_best": "val_accuracy"}, [0.3, 0.9, 0.5, 0.8, 0.1], 2),
        ({"keep_best": "val_loss", "mode": "max"}, [3.0, 1.0, 2.0, 1.0, 3.5], 5),
        ({"keep_best": "val_loss"}, [float("nan"), 2.0, float("nan"), 3.0, 3.0], 2),
        ({"keep_best": "val_loss", "every_seconds": 1e9}, [3.0, 1.0, 2.0, 2.0, 2.0], 2),
    ],
)
def test_the_best_is_kept_beyond_the_newest_and_across_resumes(tmp_path, monkeypatch, options, values, best):
    def train(folder, *callbacks, state=None, resume=None):
        saver = Checkpoints(folder, **{"every_seconds": 0.0, "keep": 1, **options})
        score = Score(values, options["keep_best"])
        batches = [score, *callbacks, saver]
        start = new_state() if state is None else state
        return fit(
            start,
            lambda epoch, start=0: TRAIN[start:],
            TRAIN[:1],
            epochs=5,
            callbacks=batches,
            train_step=STEP,
            progress=False,
            resume=resume,
        )

    train(tmp_path / "whole")
    expected = [f"step-{4 * best:09d}-epoch-{best:05d}", "step-000000020-epoch-00005-final"]
    assert names(tmp_path / "whole") == expected
    for stop in (6, 8, 10, 14, 18):
        folder = tmp_path / str(stop)
        train(folder, StopAt(stop))
        arrays, position = storage.load(newest(folder))
        train(
            folder,
            state=state_arrays.restore_state(new_state(), arrays),
            resume=(position, state_arrays.callback_arrays(arrays)),
        )
        assert names(folder) == expected
    saved = []
    monkeypatch.setattr(storage, "write", lambda *args, write=storage.write: saved.append(args[0].name) or write(*args))
    train(tmp_path / "resumed", StopAt(10))
    arrays, position = storage.load(newest(tmp_path / "resumed"))
    saved.clear()
    options = {**options, "every_seconds": 1e9}
    train(tmp_path / "resumed", state=state_arrays.restore_state(new_state(), arrays), resume=(position, {}))
    # The first epoch is always saved; of those after it, only one that is better than all before, the resumed ones too.
    better = [f"step-{4 * best:09d}-epoch-{best:05d}"] if best > 3 else []
    assert saved == ["step-000000012-epoch-00003", *better, "step-000000020-epoch-00005-final"]
    with pytest.raises(UsageError, match="no metric 'val_los' to keep the best by"):
        run(tmp_path / "typo", keep_best="val_los")


def test_arguments_out_of_range_and_anothers_checkpoints_are_refused(tmp_path):
    for options in ({"keep": 0}, {"every_steps": 0}, {"keep_best": "val_loss", "mode": "least"}):
        with pytest.raises(UsageError, match="expected"):
            run(tmp_path, **options)
    run(tmp_path, epochs=1)
    with pytest.raises(
        UsageError, match=r"this run is at step 0, but .* has step-000000004-epoch-00001-final\. Resume"
    ):
        run(tmp_path)
    assert names(tmp_path) == ["step-000000004-epoch-00001-final"]


class Gate:
    """Hold the writing of checkpoints until it is opened, and count how many are written at once."""

    def __init__(self, monkeypatch):
        self.open, self.begun, self.at_once, self.most = threading.Event(), threading.Event(), 0, 0
        self.write = storage.write
        monkeypatch.setattr(storage, "write", self)

    def __call__(self, *args):
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self.begun.set()
        assert self.open.wait(60)
        path = self.write(*args)
        self.at_once -= 1
        return path


class At(Callback):
    """Call something after a step."""

    def __init__(self, step, call):
        self.step, self.call = step, call

    def on_step(self, loop):
        if loop.step == self.step:
            self.call(loop)


def test_a_run_goes_on_while_it_is_written_and_what_is_written_is_what_it_was(tmp_path, monkeypatch):
    run(tmp_path / "reference", every_steps=2, keep=9)
    gate = Gate(monkeypatch)
    reached = []

    def look(loop):
        assert gate.begun.wait(60)
        reached.append((loop.step, names(tmp_path / "late")))
        gate.open.set()

    run(tmp_path / "late", At(3, look), every_steps=2, keep=9)
    assert reached == [(3, [])]
    assert gate.most == 1
    assert names(tmp_path / "late") == names(tmp_path / "reference")
    for name in names(tmp_path / "late"):
        assert digest_directory(tmp_path / "late" / name) == digest_directory(tmp_path / "reference" / name)


def test_what_a_callback_adds_to_the_history_later_is_not_in_it(tmp_path, monkeypatch):
    gate = Gate(monkeypatch)

    def add(loop):
        loop.history[-1]["val_loss"] = "later"
        gate.open.set()

    run(tmp_path, At(5, add), keep=9)
    first, last = (storage.load(path)[1]["history"][0]["val_loss"] for path in storage.checkpoint_dirs(tmp_path))
    assert isinstance(first, float)
    assert last == "later"


def test_a_writer_does_one_thing_at_a_time_and_raises_each_error_once():
    writer, done = Writer(), []

    def work(number):
        done.append(("begin", number))
        time.sleep(0.02)
        done.append(("end", number))

    for number in range(3):
        writer.submit(functools.partial(work, number))
    writer.wait()
    assert done == [(what, number) for number in range(3) for what in ("begin", "end")]
    writer.submit(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        writer.submit(functools.partial(work, 3))
    writer.check()
    writer.wait()
    assert len(done) == 6


def test_a_save_that_fails_in_the_background_ends_the_run_and_is_never_the_newest(tmp_path, monkeypatch):
    write, calls = storage.write, iter(range(100))

    def failing(*args):
        if next(calls) == 1:
            raise OSError(28, "No space left on device")
        return write(*args)

    monkeypatch.setattr(storage, "write", failing)
    steps = []

    class Count(Callback):
        def on_step(self, loop):
            steps.append(loop.step)

    with pytest.raises(storage.CheckpointError, match=r"step-000000004-epoch-00000: No space left .* are untouched"):
        run(tmp_path, Count(), every_steps=2, epochs=50)
    assert steps[-1] < 10
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000002-epoch-00000"]


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_the_last_saves_are_waited_for_and_their_failure_is_raised(tmp_path, monkeypatch, fails_at):
    """The epoch's, the last one's, and, the third, the one after an interruption."""
    calls = iter(range(100))

    def failing(*args):
        if fails_at == 2 or next(calls) == fails_at:
            raise OSError(5, "Input/output error")
        return storage_write(*args)

    storage_write = storage.write
    monkeypatch.setattr(storage, "write", failing)
    with pytest.raises(storage.CheckpointError, match="Input/output error"):
        run(tmp_path, *([StopAt(2)] if fails_at == 2 else []))
    assert names(tmp_path) == {0: [], 1: ["step-000000004-epoch-00001"], 2: []}[fails_at]


def test_another_error_waits_for_what_is_being_written_and_stays_the_one_that_is_told(tmp_path, monkeypatch):
    gate = Gate(monkeypatch)

    def diverge(loop):
        threading.Timer(0.2, gate.open.set).start()
        raise NonFiniteError("the loss became nan")

    with pytest.raises(NonFiniteError):
        run(tmp_path / "a", At(3, diverge), every_steps=2)
    assert names(tmp_path / "a") == ["step-000000002-epoch-00000"]

    def failing(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "write", failing)
    with pytest.raises(NonFiniteError) as caught:
        run(tmp_path / "b", At(3, diverge), every_steps=2)
    assert names(tmp_path / "b") == []
    (note,) = caught.value.__notes__
    assert "step-000000002-epoch-00000: No space left on device" in note


def test_the_folder_may_vanish_while_the_run_goes_on(tmp_path):
    def vanish(loop):
        loop.callbacks[-1].writer.wait()
        shutil.rmtree(tmp_path / "checkpoints")

    run(tmp_path / "checkpoints", At(5, vanish), every_steps=3)
    assert names(tmp_path / "checkpoints") == ["step-000000006-epoch-00001", "step-000000008-epoch-00002-final"]


def test_a_checkpoint_of_another_net_does_not_fit():
    arrays = state_arrays.flatten_state(new_state())
    with pytest.raises(storage.CheckpointError, match=r"Dense_0/bias is float32\[4\] in it, expected float32\[7\]"):
        state_arrays.restore_state(new_state(TinyNet(num_classes=7)), arrays)
    other = new_state(tx=optax.sgd(0.1))
    with pytest.raises(storage.CheckpointError, match=r"opt_state/.* is .* in it, expected nothing"):
        state_arrays.restore_state(other, arrays)
    restored = state_arrays.restore_variables(other, arrays)
    chex.assert_trees_all_equal(restored.params, new_state().params)


def test_the_digest_sees_every_bit_and_nothing_else():
    arrays = state_arrays.flatten_state(new_state())
    row = {"epoch": 1, "val_loss": 0.5, "seconds": 3.0, "images_per_second": 7.0}
    position = {"epoch": 1, "batch": 2, "metrics": None, "callbacks": {}, "seconds": 1.0, "history": [row]}
    reference = digest_arrays(arrays, position)
    other_times = {**position, "seconds": 9.0, "history": [{**row, "seconds": 4.0, "images_per_second": 5.0}]}
    assert digest_arrays(dict(reversed(arrays.items())), other_times) == reference
    for name, value in arrays.items():
        flipped = value.copy()
        flipped.reshape(-1).view(np.uint8)[-1] ^= 1
        changed = digest_arrays({**arrays, name: flipped}, position)
        assert [k for k in reference["leaves"] if reference["leaves"][k] != changed["leaves"][k]] == [name]
        assert changed["digest"] != reference["digest"]
    changes = {"epoch": 2, "batch": 3, "metrics": {"loss_sum": 1.0}, "callbacks": {"a": 1}, "anything": 0}
    changes |= {"history": [{**row, "val_loss": 0.25}]}
    for name, value in changes.items():
        assert digest_arrays(arrays, {**position, name: value})["digest"] != reference["digest"]
    scalar = {"step": np.array(1, np.int32)}
    assert digest_arrays(scalar, {}) != digest_arrays({"step": np.array([1], np.int32)}, {})
    assert json.dumps(reference)
