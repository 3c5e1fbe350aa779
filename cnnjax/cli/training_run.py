"""One training run: data, state and callbacks brought together, then the result written down."""

import argparse
import contextlib
import pathlib
from typing import Any

import jax

from cnnjax import hosts, recipes, runs
from cnnjax.cli import dry_run, loading, report, starting_weights, train_options, training_setup
from cnnjax.cli.output import Output
from cnnjax.cli.training_setup import Setup
from cnnjax.data import Dataset
from cnnjax.errors import CnnjaxError, UsageError
from cnnjax.recipes import Recipe
from cnnjax.training import (
    Callback,
    CsvHistory,
    EarlyStopping,
    History,
    Profile,
    Progress,
    TensorBoard,
    TrainState,
    evaluate,
    fit,
    keep_freed_memory,
)


def run(recipe: Recipe, config: dict[str, Any], args: argparse.Namespace, out: Output) -> int:
    """Train in a workdir, or go on there, or say what a finished run found.

    Args:
      recipe: What to train.
      config: The recipe as recorded, with its name and the seed.
      args: The options that do not decide the result.
      out: Where to speak.
    Returns:
      The exit code.
    """
    keep_freed_memory()
    # A folder of our own choosing is made only once there are data to train on.
    start = dataset = None
    if args.workdir is None or args.dry_run:
        start, dataset = _begin(recipe, args, out)
    if args.dry_run:
        assert dataset is not None
        return dry_run.run(training_setup.prepare(recipe, args, out, dataset, start), out)
    with contextlib.ExitStack() as opened:
        workdir: runs.Workdir | None = None

        def enter() -> tuple[list[str], dict[str, Any] | None, str, int | None, bool]:
            nonlocal workdir
            workdir = opened.enter_context(
                runs.Workdir(args.workdir or runs.default_workdir(recipe.model, recipe.dataset))
            )
            short = workdir.epochs_to_extend(config, recipes.with_new_names)
            wanted = config if short is None else {**config, "epochs": short}
            warnings = workdir.compare(wanted, devices=args.devices, renamed=recipes.with_new_names)
            return warnings, None if short else workdir.result, str(workdir.path), short, workdir.ended

        warnings, result, path, short, ended = hosts.on_main(enter)
        for warning in warnings:
            out.say(f"warning: {warning}")
        if result is not None:
            out.say(f"finished already: {path}")
            _compare_data(recipe, path, args, out)
            out.result(result, report.summary(result))
            return 0
        if dataset is None:
            start, dataset = _begin(recipe, args, out)
        try:
            setup = training_setup.prepare(recipe, args, out, dataset, start)
            if short is not None:
                training_setup.check_extension(setup, short, path, ended=ended)
            described = report.describe(dataset, setup.preprocess)
            files = dataset.info.files
            hosts.on_main(lambda: _main(workdir).record(config, described, devices=args.devices, files=files))
        except UsageError:
            if args.workdir is None and workdir is not None:
                workdir.discard_if_empty()
            raise
        if short is not None:
            out.say(f"{path}: the run goes on from {short} to {recipe.epochs} epochs")
            hosts.on_main(lambda: _main(workdir).extend(recipe.epochs))
        return _train(setup, config, args, out, workdir)


def _begin(recipe: Recipe, args: argparse.Namespace, out: Output) -> tuple[starting_weights.Start | None, Dataset]:
    """Return the weights to start from, and the data at the size that they want."""
    start = starting_weights.find(recipe, args, out)
    return start, loading.load(recipe, args, out, None if start is None else start.preprocess)


def _compare_data(recipe: Recipe, path: str, args: argparse.Namespace, out: Output) -> None:
    """Say if a finished run's data are no longer what it was trained with; its result stands either way."""
    _, described = runs.read_run(pathlib.Path(path))
    try:
        found = loading.as_recorded(recipe, described, args, Output(silent=True)).info.digests
    except CnnjaxError as error:
        out.say(f"warning: its data can't be compared with what it was trained with: {error}")
        return
    if dict(found) != described["digests"]:
        out.say("warning: its data have changed since; this is the result of what it was trained with")


def _train(
    setup: Setup, config: dict[str, Any], args: argparse.Namespace, out: Output, workdir: runs.Workdir | None
) -> int:
    recipe = setup.recipe
    if workdir is not None:
        out.say(report.header(recipe, setup.dataset, setup.state, workdir))
    early = EarlyStopping(recipe.monitor, recipe.patience, recipe.min_delta) if recipe.patience else None
    stop = runs.StopOnSignal() if jax.process_count() == 1 else runs.AgreedStopOnSignal()
    callbacks = _callbacks(setup, args, out, workdir, stop, early)
    state, resume, ended = _resume(setup, workdir, out)
    if ended:  # only what comes after training is left to do
        history = History(resume[0]["history"])
        best = resume[0]["callbacks"].get("EarlyStopping", {}).get("best_epoch")
    else:
        validation = setup.dataset.validation
        state, history = fit(
            state,
            setup.epoch,
            (lambda: setup.whole(validation)) if len(validation) else None,
            epochs=recipe.epochs,
            callbacks=callbacks,
            train_step=setup.train_step,
            eval_step=setup.eval_step,
            progress=False,
            resume=resume,
        )
        if stop.received is not None:
            return report.stopped(stop.received, state, history, recipe.epochs, workdir, out)
        best = early.best_epoch if early else None
    test = evaluate(state, setup.whole(setup.dataset.test), eval_step=setup.eval_step).compute()
    if workdir is not None:
        result = report.result(recipe, config, state, history, best or None, test, workdir)
        workdir.finish(result)
        note = report.curves(workdir, history)
        out.result(result, [*report.summary(result), note])
    return 0


def _resume(setup: Setup, workdir: runs.Workdir | None, out: Output) -> tuple[TrainState, Any, bool]:
    """Return the state to go on from, what `fit` needs to resume, and whether training had ended by itself."""
    found: dict[str, Any] = {}

    def read() -> dict[str, Any] | None:
        newest = runs.load_newest(_main(workdir).checkpoints)
        if newest is None:
            return None
        path, arrays, position, damaged = newest
        found.update(arrays)
        return {"position": position, "damaged": damaged, "final": runs.is_final(path)}

    newest = hosts.on_main(read)
    if newest is None:
        return setup.state, None, False
    arrays, position = hosts.share_arrays(found), newest["position"]
    # One that had ended before may have got more epochs since.
    ended = newest["final"] and (setup.recipe.patience is not None or position["epoch"] >= setup.recipe.epochs)
    for line in newest["damaged"]:
        out.say(f"warning: {line}")
    where = f"at step {position['step']} (epoch {position['epoch'] + 1})"
    out.say("training had ended; testing" if ended else f"resuming {where}")
    state = setup.place(runs.restore_state(setup.state, arrays))
    return state, (position, runs.callback_arrays(arrays)), ended


def _callbacks(
    setup: Setup,
    args: argparse.Namespace,
    out: Output,
    workdir: runs.Workdir | None,
    stop: Callback,
    early: EarlyStopping | None,
) -> list[Callback]:
    """Return the callbacks in the order in which they must see an epoch: what is saved comes last."""
    callbacks: list[Callback] = [stop, *([early] if early is not None else [])]
    if workdir is None:  # another process writes and speaks
        return callbacks
    callbacks.insert(1, Progress(out.words, epoch_steps=setup.epoch_steps))
    callbacks.append(CsvHistory(workdir.path / "history.csv"))
    if not args.no_tensorboard:
        callbacks.append(TensorBoard(workdir.path / "tensorboard", learning_rate=setup.rate))
    window = train_options.profile_window(args)
    if window is not None:
        callbacks.append(Profile(workdir.path / "profile", *window))
    best = setup.recipe.monitor if args.keep_best else None
    callbacks.append(
        runs.Checkpoints(workdir.checkpoints, every_steps=args.checkpoint_every, keep=args.keep, keep_best=best)
    )
    return callbacks


def _main(workdir: runs.Workdir | None) -> runs.Workdir:
    """Return the workdir, which the main process has."""
    assert workdir is not None
    return workdir
