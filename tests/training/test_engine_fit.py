"""A run whose numbers stop being finite, and how often a whole run compiles."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import data, runs
from cnnjax.data.resident import Split
from cnnjax.training import (
    Callback,
    EarlyStopping,
    NonFiniteError,
    TensorBoard,
    create_state,
    evaluate,
    fit,
    make_eval_step,
    make_train_step,
    softmax_cross_entropy,
)
from tests.runs.event_files import read_scalars
from tests.runs.tiny_run import StopAt
from tests.training.nets import LinearNet, TinyNet, random_batch

TINY, SGD = TinyNet(dropout=0.0), optax.sgd(0.05, momentum=0.9)


def fresh(**options):
    return create_state(TINY, SGD, (6, 5, 2), key=jax.random.key(0), **options)


def batches_with_a_bad_one(bad, count=12):
    found = [random_batch(seed) for seed in range(count)]
    found[bad] = found[bad].replace(image=found[bad].image.at[0, 0, 0, 0].set(jnp.nan))
    return found


def test_a_run_that_skips_counts_what_it_left_out():
    step = make_train_step(skip_nonfinite=True)
    state, history = fit(fresh(), batches_with_a_bad_one(4), epochs=2, train_step=step, progress=False)
    assert history["skipped"] == [1, 1]
    assert history["step"] == [12, 24]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))

    plain = make_train_step()
    sound = [batch for number, batch in enumerate(batches_with_a_bad_one(4)) if number != 4]
    expected, other = fit(fresh(), sound, epochs=2, train_step=plain, progress=False)
    # Two programs, which XLA may order differently.
    chex.assert_trees_all_close(state.variables, expected.variables, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(history["train_loss"], other["train_loss"], rtol=1e-5)


def test_a_run_of_nothing_but_bad_steps_ends():
    bad = [batches_with_a_bad_one(0)[0]] * 3
    with pytest.raises(NonFiniteError, match="every one of the 3 steps of epoch 1 was skipped"):
        fit(fresh(), bad, epochs=2, train_step=make_train_step(skip_nonfinite=True), progress=False)


def test_an_evaluation_that_is_not_finite_tells_what_was_skipped_before_it():
    step = make_train_step(skip_nonfinite=True)
    bad = random_batch(0).replace(image=jnp.full_like(random_batch(0).image, jnp.nan))
    with pytest.raises(NonFiniteError, match=r"after step 12 \(epoch 1, 1 of its 12 steps skipped\), evaluation"):
        fit(fresh(), batches_with_a_bad_one(4), [bad], epochs=1, train_step=step, progress=False)


class TimedStop(StopAt):
    def __init__(self, step):
        super().__init__(step)
        self.seconds = []

    def on_step(self, loop):
        self.seconds.append(loop.state_dict()["seconds"])
        super().on_step(loop)


def cut(folder, step, state, **options):
    """Train until a step, save, and return what `fit` needs to go on in another process."""
    stop = TimedStop(step)
    callbacks = [*options.pop("callbacks", []), stop, runs.Checkpoints(folder)]
    fit(state, callbacks=callbacks, progress=False, **options)
    _, arrays, position, _ = runs.load_newest(folder) or pytest.fail("nothing was saved")
    return arrays, (position, runs.callback_arrays(arrays)), stop


def test_skipped_steps_are_counted_across_a_resumption_and_shown_in_the_table(tmp_path):
    step = make_train_step(skip_nonfinite=True)
    batches = batches_with_a_bad_one(4)
    options = {
        "train_batches": lambda epoch, start=0: [random_batch(0)] * 2 if epoch == 0 else batches[start:],
        "epochs": 2,
        "train_step": step,
    }
    arrays, resume, _ = cut(tmp_path, 2 + 6, fresh(), **options)
    state, history = fit(runs.restore_state(fresh(), arrays), resume=resume, progress=False, **options)
    expected, whole = fit(fresh(), progress=False, **options)
    chex.assert_trees_all_equal(state.variables, expected.variables)
    assert [line.rsplit(",", 1)[1] for line in history.to_csv().splitlines()] == ["skipped", "0", "1"]
    assert history["train_loss"] == whole["train_loss"]


def test_the_time_of_an_epoch_survives_a_resumption(tmp_path):
    options = {"train_batches": [random_batch(seed) for seed in range(6)], "epochs": 1, "train_step": make_train_step()}
    arrays, resume, stop = cut(tmp_path, 4, fresh(), **options)
    assert stop.seconds[0] > 0
    assert stop.seconds == sorted(set(stop.seconds))
    assert resume[0]["seconds"] >= stop.seconds[-1]
    _, history = fit(runs.restore_state(fresh(), arrays), resume=resume, progress=False, **options)
    assert history[-1]["seconds"] >= round(resume[0]["seconds"], 3)


def test_the_best_epochs_averages_survive_a_resumption_of_a_net_without_statistics(tmp_path):
    options = {
        "train_batches": [random_batch(seed) for seed in range(3)],
        "eval_batches": [random_batch(9)],
        "epochs": 3,
        "train_step": make_train_step(ema_decay=0.5),
    }

    def new():
        return create_state(LinearNet(), SGD, (6, 5, 2), key=jax.random.key(0), ema=True)

    def early():
        return EarlyStopping(patience=9, min_delta=100.0)  # the first epoch stays the best

    arrays, resume, _ = cut(tmp_path, 4, new(), callbacks=[early()], **options)
    state, _ = fit(runs.restore_state(new(), arrays), resume=resume, callbacks=[early()], progress=False, **options)
    expected, history = fit(new(), callbacks=[early()], progress=False, **options)
    chex.assert_trees_all_equal((state.params, state.ema), (expected.params, expected.ema))
    assert evaluate(state, options["eval_batches"]).loss == history[0]["val_loss"]


def test_an_optimizer_whose_own_numbers_overflow_is_noticed():
    """The gradients are finite; their squares, which Adam keeps, aren't, and such a parameter never moves again."""
    steps = {
        skip: make_train_step(loss=lambda *a: 1e22 * softmax_cross_entropy(*a), skip_nonfinite=skip) for skip in (0, 1)
    }

    def new():
        return create_state(LinearNet(), optax.adam(0.01), (6, 5, 2), key=jax.random.key(0))

    with pytest.raises(NonFiniteError, match="or the optimizer's state became nan or inf at step 1"):
        fit(new(), [random_batch()], epochs=1, train_step=steps[0], progress=False)
    state, metrics = steps[1](new(), random_batch())
    assert metrics.nonfinite == 1
    chex.assert_trees_all_equal(state.params, new().params)


def test_an_evaluation_that_is_not_finite_says_after_which_step():
    bad = random_batch().replace(image=jnp.full((8, 6, 5, 2), jnp.inf))
    with pytest.raises(NonFiniteError, match=r"after step 2 \(epoch 1\), evaluation: the loss over 8 examples is nan"):
        fit(fresh(), [random_batch()] * 2, [bad], epochs=1, train_step=make_train_step(), progress=False)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_the_newest_checkpoint_of_a_run_that_stops_is_finite(what, tmp_path):
    """Also where the loss is finite and only what the step made of the parameters is not."""

    def loss(logits, labels):
        bad = jnp.sqrt(jnp.abs(logits[:, 0] * (labels >= 0) * 0.0))  # zero, with a gradient that is NaN
        found = softmax_cross_entropy(logits, labels)
        return found + bad if what == "gradient" else found

    good, poisoned = make_train_step(), make_train_step(loss=loss)

    def step(state, batch):
        bad = what == "gradient" and np.isnan(batch.image).any()
        return (poisoned if bad else good)(state, batch.replace(image=jnp.nan_to_num(batch.image)) if bad else batch)

    saving = runs.Checkpoints(tmp_path, every_steps=1)
    with pytest.raises(NonFiniteError, match=r"at step 8 \(epoch 1\)") as error:
        fit(fresh(), batches_with_a_bad_one(7), epochs=1, train_step=step, callbacks=[saving], progress=False)
    assert ("the loss became nan" in str(error.value)) == (what == "loss")
    newest = runs.load_newest(tmp_path)
    assert newest is not None
    _, arrays, position, damaged = newest
    assert (position["step"], damaged) == (7, [])
    assert all(np.isfinite(value).all() for value in arrays.values() if value.dtype.kind == "f")


def test_early_stopping_restores_the_averages_of_the_best_epoch_too():
    step, seen = make_train_step(ema_decay=0.9), []

    class Watch(EarlyStopping):
        def on_epoch(self, loop):
            super().on_epoch(loop)
            seen.append(jax.tree.map(np.array, loop.state.ema))

    stopping = Watch("train_loss", 2, mode="max")  # the first epoch is the best by far
    state, _ = fit(
        fresh(ema=True), [random_batch()] * 4, epochs=9, train_step=step, callbacks=[stopping], progress=False
    )
    assert len(seen) == 3
    chex.assert_trees_all_equal(jax.tree.map(np.array, state.ema), seen[0])


def test_a_whole_run_compiles_each_function_once():
    """The last batch of an epoch, of training and of evaluation, is no other shape."""
    rng = np.random.default_rng(0)

    def split(name, examples):
        images = rng.integers(0, 256, (examples, 6, 5, 2), dtype=np.uint8)
        labels = rng.integers(0, 4, examples, dtype=np.int32)
        return Split(name, images, labels, [str(i) for i in range(examples)], (0.5, 0.5), (0.3, 0.3))

    train, validation = split("train", 37), split("validation", 19)
    chex.clear_trace_counter()
    step = make_train_step(
        loss=chex.assert_max_traces(lambda logits, labels: softmax_cross_entropy(logits, labels), n=1), ema_decay=0.9
    )
    evaluate = make_eval_step(
        loss=chex.assert_max_traces(lambda logits, labels: softmax_cross_entropy(logits, labels), n=1)
    )
    _, history = fit(
        fresh(ema=True),
        lambda epoch: data.batches(train, 8, key=jax.random.key(1), epoch=epoch, train=True),
        lambda: data.batches(validation, 8),
        epochs=3,
        train_step=step,
        eval_step=evaluate,
        progress=False,
    )
    assert history["step"] == [5, 10, 14]
    assert step._cache_size() == evaluate._cache_size() == 1


def test_an_epoch_saved_at_its_last_step_and_told_before_the_kill_is_told_once(tmp_path):
    """The checkpoint of step 4 is older than the event of the epoch that ends there; the resumed run tells it again."""
    batches, saved = [random_batch(seed) for seed in range(4)], {}

    class SaveAtLastStep(Callback):
        def on_step(self, loop):
            if loop.step == 4:
                saved["state"] = jax.tree.map(jnp.array, loop.state)
                saved["resume"] = (loop.state_dict(), loop.arrays())

    class DieAfterEpoch(Callback):
        def on_epoch(self, loop):
            raise KeyboardInterrupt

    board = TensorBoard(tmp_path, histograms=False)
    with pytest.raises(KeyboardInterrupt):
        fit(fresh(), batches, epochs=2, callbacks=[SaveAtLastStep(), board, DieAfterEpoch()], progress=False)
    fit(
        saved["state"],
        batches,
        epochs=2,
        callbacks=[TensorBoard(tmp_path, histograms=False)],
        progress=False,
        resume=saved["resume"],
    )
    assert [step for step, _ in read_scalars(tmp_path)["loss/train"]] == [4, 8]
