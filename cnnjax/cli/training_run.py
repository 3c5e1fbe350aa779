"""One training run: data, state and callbacks brought together, then the result written down."""

import argparse
import functools
from typing import Any

import jax

from cnnjax import runs
from cnnjax.cli import loading, modelling, published, report
from cnnjax.cli.output import Output
from cnnjax.data import Dataset, augment, batches, epoch_range
from cnnjax.errors import UsageError
from cnnjax.recipes import Recipe
from cnnjax.training import (
    Callback,
    CsvHistory,
    EarlyStopping,
    History,
    Progress,
    TensorBoard,
    TrainState,
    create_state,
    evaluate,
    fit,
    make_optimizer,
    make_schedule,
    make_train_step,
    softmax_cross_entropy,
)
from cnnjax.training.optim import Schedule


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
    # A folder of our own choosing is made only once there are data to train on.
    dataset = loading.load(recipe, args, out) if args.workdir is None else None
    with runs.Workdir(args.workdir or runs.default_workdir(recipe.model, recipe.dataset)) as workdir:
        for warning in workdir.compare(config):
            out.say(f"warning: {warning}")
        if workdir.result is not None:
            out.say(f"finished already: {workdir.path}")
            out.result(workdir.result, report.summary(workdir.result))
            return 0
        dataset = dataset or loading.load(recipe, args, out)
        try:
            return _train(recipe, config, args, out, workdir, dataset)
        except UsageError:
            if args.workdir is None:
                workdir.discard_if_empty()
            raise


def _train(
    recipe: Recipe,
    config: dict[str, Any],
    args: argparse.Namespace,
    out: Output,
    workdir: runs.Workdir,
    dataset: Dataset,
) -> int:
    model = modelling.build_model(recipe.model, dataset.info.num_classes)
    modelling.check_output(model, dataset.train.image_shape, dataset.info.num_classes)
    _check_monitor(recipe, dataset)
    init_key, data_key = jax.random.split(jax.random.key(args.seed))
    total_steps = epoch_range(len(dataset.train), recipe.batch_size, recipe.epochs - 1).stop
    rate, tx = _optimizer(recipe, len(dataset.train), total_steps)
    variables = None if args.weights is None else published.start(model, recipe.model, args.weights, out)
    shape = dataset.train.image_shape
    state = create_state(model, tx, shape, key=init_key, variables=variables, freeze=args.freeze)
    train_step = _train_step(recipe)
    modelling.check_step(train_step, state, dataset.train.image_shape, recipe.batch_size)
    workdir.record(config, report.describe(dataset))
    out.say(report.header(recipe, dataset, state, workdir))

    early = EarlyStopping(recipe.monitor, recipe.patience, recipe.min_delta) if recipe.patience else None
    stop = runs.StopOnSignal()
    callbacks = _callbacks(recipe, args, out, workdir, stop, early, rate, len(dataset.train))
    state, resume, ended = _resume(state, workdir, out)
    if ended:  # only what comes after training is left to do
        history = History(resume[0]["history"])
        best = resume[0]["callbacks"].get("EarlyStopping", {}).get("best_epoch")
    else:
        state, history = fit(
            state,
            functools.partial(_epoch, dataset, recipe.batch_size, data_key),
            functools.partial(_whole, dataset.validation, recipe) if len(dataset.validation) else None,
            epochs=recipe.epochs,
            callbacks=callbacks,
            train_step=train_step,
            progress=False,
            resume=resume,
        )
        if stop.received is not None:
            return report.stopped(stop.received, state, history, workdir, out)
        best = early.best_epoch if early else None
    test = evaluate(state, _whole(dataset.test, recipe)).compute()
    result = report.result(recipe, config, state, history, best or None, test, workdir)
    workdir.finish(result)
    note = report.curves(workdir, history)
    out.result(result, [*report.summary(result), note])
    return 0


def _check_monitor(recipe: Recipe, dataset: Dataset) -> None:
    if recipe.patience and recipe.monitor.startswith("val_") and not len(dataset.validation):
        raise UsageError(f"--patience: nothing to watch, {recipe.monitor} needs validation examples (--validation).")


def _epoch(dataset: Dataset, batch_size: int, key: jax.Array, epoch: int, start: int = 0) -> Any:
    return batches(dataset.train, batch_size, key=key, epoch=epoch, train=True, start=start)


def _whole(split: Any, recipe: Recipe) -> Any:
    return batches(split, loading.eval_batch_size(recipe.batch_size, split.image_shape))


def _optimizer(recipe: Recipe, examples: int, total_steps: int) -> tuple[Schedule, Any]:
    warmup_steps = round(recipe.warmup_epochs * examples / recipe.batch_size)
    rate = make_schedule(
        recipe.schedule,
        recipe.learning_rate,
        total_steps,
        warmup_steps=warmup_steps,
        boundaries=recipe.boundaries,
        factor=recipe.factor,
    )
    decay = recipe.weight_decay
    return rate, make_optimizer(
        recipe.optimizer, rate, momentum=recipe.momentum, weight_decay=decay, clip_norm=recipe.clip_norm
    )


def _train_step(recipe: Recipe) -> Any:
    loss = functools.partial(softmax_cross_entropy, label_smoothing=recipe.label_smoothing)
    return make_train_step(loss=loss, augment=augment.parse(recipe.augment), aux_weight=recipe.aux_weight)


def _resume(state: TrainState, workdir: runs.Workdir, out: Output) -> tuple[TrainState, Any, bool]:
    """Return the state to go on from, what `fit` needs to resume, and whether training had ended by itself."""
    newest = runs.load_newest(workdir.checkpoints)
    if newest is None:
        return state, None, False
    path, arrays, position, damaged = newest
    for line in damaged:
        out.say(f"warning: {line}")
    ended = runs.is_final(path)
    where = f"at step {position['step']} (epoch {position['epoch'] + 1})"
    out.say("training had ended; testing" if ended else f"resuming {where}")
    return runs.restore_state(state, arrays), (position, runs.callback_arrays(arrays)), ended


def _callbacks(
    recipe: Recipe,
    args: argparse.Namespace,
    out: Output,
    workdir: runs.Workdir,
    stop: Callback,
    early: EarlyStopping | None,
    rate: Schedule,
    examples: int,
) -> list[Callback]:
    """Return the callbacks in the order in which they must see an epoch: what is saved comes last."""
    callbacks: list[Callback] = [
        stop,
        Progress(out.words, epoch_steps=len(epoch_range(examples, recipe.batch_size, 0))),
    ]
    if early is not None:
        callbacks.append(early)
    callbacks.append(CsvHistory(workdir.path / "history.csv"))
    if not args.no_tensorboard:
        callbacks.append(TensorBoard(workdir.path / "tensorboard", learning_rate=rate))
    callbacks.append(runs.Checkpoints(workdir.checkpoints, every_steps=args.checkpoint_every))
    return callbacks
