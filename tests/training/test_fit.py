import _thread
import csv
import gc
import itertools
import json
import threading
from xml.etree import ElementTree

import chex
import jax
import numpy as np
import optax
import pytest

from cnnjax.errors import UsageError
from cnnjax.training import (
    Callback,
    CsvHistory,
    EarlyStopping,
    History,
    LabelError,
    Metrics,
    NonFiniteError,
    create_state,
    eval_step,
    evaluate,
    fit,
    make_train_step,
)
from cnnjax.training.loop import Loop
from tests.training.nets import TinyNet, random_batch

TINY, SGD, STEP = TinyNet(), optax.sgd(0.1, momentum=0.9), make_train_step()
TRAIN = [random_batch(seed) for seed in range(4)]
EVAL = [random_batch(seed, mask=np.arange(8) < 5) for seed in (10, 11)]


def new_state(seed=0):
    return create_state(TINY, SGD, (6, 5, 2), key=jax.random.key(seed))


def run(state, *, epochs=3, callbacks=(), **options):
    return fit(state, TRAIN, EVAL, epochs=epochs, callbacks=callbacks, train_step=STEP, progress=False, **options)


class StopAfter(Callback):
    """Interrupt a run after some steps and keep what a checkpoint would hold."""

    def __init__(self, step):
        self.step = step

    def on_step(self, loop):
        if loop.step == self.step:
            loop.stop("test", now=True)

    def on_end(self, loop):
        # Through text, as on disk.
        self.saved = json.loads(json.dumps(loop.state_dict())), jax.tree.map(np.array, loop.arrays())


def test_fit_equals_a_bare_loop():
    state, history = run(new_state())
    bare, sums = new_state(), []
    for _ in range(3):
        for batch in TRAIN:
            bare, metrics = STEP(bare, batch)
            sums.append(metrics.to_host())
    chex.assert_trees_all_equal(state.params, bare.params)
    last = sums[-4] + sums[-3] + sums[-2] + sums[-1]
    assert history[-1]["train_loss"] == last.loss
    assert history[-1]["val_loss"] == evaluate(bare, EVAL).loss
    assert history["epoch"] == [1, 2, 3]
    assert history["step"] == [4, 8, 12]


@pytest.mark.parametrize("stop", [1, 4, 6, 11])
def test_a_run_stopped_at_any_step_goes_on_exactly(stop):
    whole_early = EarlyStopping(patience=5)
    whole, whole_history = run(new_state(), callbacks=[whole_early])

    stopper = StopAfter(stop)
    first, _ = run(new_state(), callbacks=[EarlyStopping(patience=5), stopper])
    assert int(first.step) == stop
    calls = []

    def batches(epoch, start=0):
        calls.append((epoch, start))  # a resumed epoch is asked for from where it stopped, not walked through
        return TRAIN[start:]

    early = EarlyStopping(patience=5)
    resumed, history = fit(
        first,
        batches,
        EVAL,
        epochs=3,
        callbacks=[early, StopAfter(None)],
        train_step=STEP,
        progress=False,
        resume=stopper.saved,
    )
    chex.assert_trees_all_equal(resumed.params, whole.params)
    chex.assert_trees_all_equal(resumed.opt_state, whole.opt_state)
    timeless = [[{k: v for k, v in row.items() if "second" not in k} for row in h] for h in (history, whole_history)]
    assert timeless[0] == timeless[1]
    assert (early.best, early.best_epoch) == (whole_early.best, whole_early.best_epoch)
    assert calls[0] == (stopper.saved[0]["epoch"], stopper.saved[0]["batch"])
    assert calls[0][0] * 4 + calls[0][1] == stop


class Scripted(Callback):
    """Put made-up validation losses into the history, before early stopping reads them."""

    def __init__(self, losses):
        self.losses = losses
        self.params = []

    def on_epoch(self, loop):
        loop.history[-1]["val_loss"] = self.losses[loop.epoch - 1]
        self.params.append(jax.tree.map(np.array, loop.state.params))


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "epochs", "best"),
    [
        ([5, 4, 4.5, 4.2, 3, 2], 2, 0.0, 4, 2),
        ([5, 4, 4.5, 3.9, 4, 4, 4], 2, 0.0, 6, 4),
        ([5, 4.95, 4.91, 4, 4], 2, 0.1, 3, 1),
        ([5, 4, float("nan"), float("nan"), 1], 2, 0.0, 4, 2),
        ([float("nan"), float("nan"), 1], 2, 0.0, 2, 0),
        ([5, 4, 3], 2, 0.0, 3, 3),
    ],
)
def test_early_stopping_stops_and_restores(losses, patience, min_delta, epochs, best):
    script, early = Scripted(losses), EarlyStopping("val_loss", patience, min_delta)
    state, history = run(new_state(), epochs=len(losses), callbacks=[script, early])
    assert (len(history), early.best_epoch) == (epochs, best)
    chex.assert_trees_all_equal(state.params, script.params[best - 1 if best else -1])
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_a_run_that_had_stopped_early_does_not_go_on():
    script, early, keep = Scripted([1, 2, 3, 4, 5]), EarlyStopping(patience=2), StopAfter(None)
    _, history = run(new_state(), epochs=5, callbacks=[script, early, keep])
    assert len(history) == 3
    again = EarlyStopping(patience=2)
    state, history = run(
        new_state(), epochs=5, callbacks=[Scripted([0] * 5), again, StopAfter(None)], resume=keep.saved
    )
    assert len(history) == 3
    chex.assert_trees_all_equal(state.params, script.params[0])


def test_early_stopping_judges_each_fit_by_itself():
    early = EarlyStopping(patience=2)
    run(new_state(), callbacks=[Scripted([1, 2, 3]), early])
    script = Scripted([9, 8, 7])
    state, history = run(new_state(1), callbacks=[script, early])
    assert (len(history), early.best_epoch) == (3, 3)
    chex.assert_trees_all_equal(state.params, script.params[-1])


def test_an_evaluation_that_is_no_number_is_an_error():
    state = new_state()
    broken = state.replace(params=jax.tree.map(lambda x: x * np.nan, state.params))
    with pytest.raises(NonFiniteError, match=r"the loss over 10 examples is nan"):
        evaluate(broken, EVAL)


def test_early_stopping_keeps_the_last_parameters_when_told_so():
    script = Scripted([1, 2, 3])
    state, _ = run(new_state(), callbacks=[script, EarlyStopping(patience=2, restore_best=False)])
    chex.assert_trees_all_equal(state.params, script.params[-1])


def test_early_stopping_knows_which_way_is_better():
    assert EarlyStopping("val_accuracy").sign == -1
    assert EarlyStopping("val_loss").sign == 1
    with pytest.raises(UsageError, match=r"no metric 'val_f1' to watch\. Known: train_loss"):
        run(new_state(), epochs=1, callbacks=[EarlyStopping("val_f1")])
    with pytest.raises(UsageError, match="expected patience >= 1"):
        EarlyStopping(patience=0)


def test_a_loss_that_is_no_number_names_its_step():
    poisoned = [*TRAIN[:2], TRAIN[2].replace(image=TRAIN[2].image.at[0].set(np.nan)), TRAIN[3]]
    with pytest.raises(NonFiniteError, match=r"the loss became nan at step 7 \(epoch 2\)"):
        fit(new_state(), lambda e: poisoned if e else TRAIN, epochs=2, train_step=STEP, progress=False)


def test_an_epoch_without_batches_is_an_error_not_an_epoch():
    with pytest.raises(ValueError, match="expected batches for epoch 1, got none"):
        fit(new_state(), [], epochs=1, train_step=STEP, progress=False)
    once = iter(TRAIN)
    with pytest.raises(ValueError, match="a generator is used up after one epoch"):
        fit(new_state(), once, epochs=2, train_step=STEP, progress=False)


def test_callbacks_close_in_an_error_too():
    class Closing(Callback):
        closed = 0

        def on_close(self, loop):
            self.closed += 1

    closing = Closing()
    with pytest.raises(ValueError, match="expected batches"):
        fit(new_state(), [], epochs=1, callbacks=[closing], train_step=STEP, progress=False)
    assert closing.closed == 1


def test_csv_history_is_whole_after_each_epoch(tmp_path):
    path = tmp_path / "history.csv"
    seen = []

    class Reader(Callback):
        def on_epoch(self, loop):
            with path.open() as file:
                seen.append(list(csv.DictReader(file)))

    _, history = run(new_state(), callbacks=[CsvHistory(path), Reader()])
    assert [len(rows) for rows in seen] == [1, 2, 3]
    assert [float(row["train_loss"]) for row in seen[-1]] == history["train_loss"]
    assert list(tmp_path.iterdir()) == [path]


def test_history_reads_by_row_and_by_column():
    history = History([{"a": 1, "b": 2}, {"a": 3, "b": 4}])
    assert history["a"] == [1, 3]
    assert history[-1] == {"a": 3, "b": 4}
    assert (len(history), next(iter(history))) == (2, {"a": 1, "b": 2})
    assert history.to_csv() == "a,b\n1,2\n3,4\n"
    assert History().to_csv() == ""


def test_a_history_draws_its_curves_in_a_notebook():
    rows = [{"epoch": n + 1, "train_loss": 2.0 - n, "val_loss": 1.5 - n / 2, "train_accuracy": 0.5} for n in range(3)]
    page = ElementTree.fromstring(History(rows)._repr_html_())  # well-formed
    loss, accuracy = page
    lines = {line.get("stroke"): line.get("points") for line in loss.iter("{http://www.w3.org/2000/svg}polyline")}
    # From the highest value, 36 pixels below the top, to the lowest, 36 above the bottom, over the whole width.
    assert lines == {"#0072B2": "36.0,36.0 180.0,110.0 324.0,184.0", "#D55E00": "36.0,73.0 180.0,110.0 324.0,147.0"}
    assert len(list(accuracy.iter("{http://www.w3.org/2000/svg}polyline"))) == 1
    assert "validation 0.5000" in "".join(page.itertext())
    assert "svg" not in History()._repr_html_()
    assert ElementTree.fromstring(History(rows[:1])._repr_html_()) is not None


def test_two_callbacks_of_one_type_keep_their_own_positions():
    two = [EarlyStopping("val_loss", 2), EarlyStopping("val_accuracy", 3)]
    loop = Loop(new_state(), 5, two)
    two[0].best, two[0].best_epoch, two[1].best, two[1].best_epoch = 1.0, 1, -0.5, 2
    loop.metrics = Metrics(*(np.float64(1) for _ in range(4)))
    fresh = [EarlyStopping("val_loss", 2), EarlyStopping("val_accuracy", 3)]
    Loop(new_state(), 5, fresh).restore(json.loads(json.dumps(loop.state_dict())), {})
    assert [c.best_epoch for c in fresh] == [1, 2]


def test_steps_far_ahead_of_the_metrics_lose_none():
    many = list(itertools.islice(itertools.cycle(TRAIN), 150))
    _, history = fit(new_state(), many, epochs=1, train_step=STEP, progress=False)
    assert history[0]["step"] == 150
    counted = []

    class Count(Callback):
        def on_step(self, loop):
            loop.flush()
            counted.append(loop.metrics.examples)

    fit(new_state(), many, epochs=1, callbacks=[Count()], train_step=STEP, progress=False)
    assert counted == [8 * (n + 1) for n in range(150)]
    sums = 0
    bare = new_state()
    for batch in many:
        bare, metrics = STEP(bare, batch)
        sums += int(metrics.top1_count)
    assert history[0]["train_accuracy"] == sums / 1200


@pytest.mark.parametrize("bad", [1, 64, 65, 100, 150])
def test_the_step_is_named_however_far_the_run_had_got(bad):
    many = list(itertools.islice(itertools.cycle(TRAIN), 150))
    sound = many[bad - 1]
    many[bad - 1] = sound.replace(image=sound.image.at[0].set(np.nan))
    with pytest.raises(NonFiniteError, match=rf"nan at step {bad} \(epoch 1\)"):
        fit(new_state(), many, epochs=1, train_step=STEP, progress=False)
    many[bad - 1] = sound.replace(label=sound.label.at[0].set(14))
    named = rf"labels reach 14; the model has 4 classes, at step {bad} \(epoch 1\)\."
    with pytest.raises(LabelError, match=named):
        fit(new_state(), many, epochs=1, train_step=STEP, progress=False)
    # Where labels lie on an accelerator nobody waits for them: the loss tells.
    with pytest.raises(LabelError, match=named):
        fit(new_state(), many, epochs=1, train_step=lambda *args: STEP._plain(*args), progress=False)


def test_evaluation_names_labels_that_are_no_classes_too():
    bad = [EVAL[0], EVAL[1].replace(label=EVAL[1].label.at[2].set(-3))]
    for step in (eval_step, lambda *args: eval_step._plain(*args)):
        with pytest.raises(LabelError, match="labels go down to -3; the model has 4 classes, counted from 0"):
            evaluate(new_state(), bad, eval_step=step)
    masked = EVAL[0].replace(label=EVAL[0].label.at[7].set(99))  # an example that only fills the batch up
    assert evaluate(new_state(), [masked]).compute() == evaluate(new_state(), EVAL[:1]).compute()


class Raise(Callback):
    def __init__(self, step, error):
        self.step, self.error = step, error

    def on_step(self, loop):
        if loop.step == self.step:
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a plot failed")], ids=["ctrl-c", "callback"])
def test_an_interrupted_fit_leaves_the_newest_state_in_the_one_it_was_given(error):
    state = new_state()
    with pytest.raises(type(error)) as caught:
        run(state, callbacks=[Raise(6, error)])
    if isinstance(error, KeyboardInterrupt):
        assert caught.value.__notes__ == ["fit: the state that it was given is now that of step 6, to go on from."]
    bare = new_state()
    for batch in [*TRAIN, *TRAIN[:2]]:
        bare, _ = STEP(bare, batch)
    chex.assert_trees_all_equal(jax.tree.map(np.array, state.variables), jax.tree.map(np.array, bare.variables))
    state, history = run(state, epochs=1)
    assert (int(state.step), history["step"]) == (10, [10])


@pytest.fixture
def no_collection():
    """Collect no garbage: JAX has a callback at its end, and what is raised there Python drops, a Ctrl-C too."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def press(delay, done):
    """Press Ctrl-C, and again if nothing came of it: Python drops what is raised in a callback of C's."""
    while not done.wait(delay):
        _thread.interrupt_main()
        delay = 5


def fit_until(thread, state):
    thread.start()  # on a busy machine its time can be over before this returns
    fit(state, itertools.cycle(TRAIN), epochs=1, train_step=STEP, progress=False)


def test_no_step_is_lost_whenever_ctrl_c_comes(no_collection):
    """Ctrl-C is seen between two bytecodes, and most of the time of a step is spent within one call."""
    state = new_state()
    run(state.replace(params=jax.tree.map(np.array, state.params)), epochs=1)  # compiled before
    for number in range(40):
        state, done = new_state(), threading.Event()
        thread = threading.Thread(target=press, args=(0.002 + 0.0007 * number, done))
        with pytest.raises(KeyboardInterrupt):
            fit_until(thread, state)
        done.set()
        thread.join()
        assert np.isfinite(STEP(state, TRAIN[0])[1].loss)


def test_a_donated_state_is_named():
    state = new_state()
    newest, _ = run(state, epochs=1)
    for use, words in (
        (lambda: run(state), "fit: this state was donated; use the one that fit returned"),
        (lambda: evaluate(state, EVAL), "evaluate: this state was donated"),
        (lambda: STEP(state, TRAIN[0]), "train_step: this state was donated; use the one that train_step returned"),
        (lambda: eval_step(state, EVAL[0]), "this state was donated"),
    ):
        with pytest.raises(UsageError, match=words):
            use()
    assert evaluate(newest, EVAL).examples == 10
