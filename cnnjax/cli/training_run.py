"""One training run: data, state and callbacks brought together, then the result written down."""

import argparse
import functools
import importlib.util
import signal
from typing import Any

import jax

from cnnjax import runs
from cnnjax.cli import loading, modelling
from cnnjax.cli.output import Output
from cnnjax.data import Dataset, augment, batches, epoch_range
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
            out.result(workdir.result, _summary(workdir.result))
            return 0
        dataset = dataset or loading.load(recipe, args, out)
        return _train(recipe, config, args, out, workdir, dataset)


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
    init_key, data_key = jax.random.split(jax.random.key(args.seed))
    total_steps = epoch_range(len(dataset.train), recipe.batch_size, recipe.epochs - 1).stop
    rate, tx = _optimizer(recipe, len(dataset.train), total_steps)
    state = create_state(model, tx, dataset.train.image_shape, key=init_key)
    workdir.record(config, _describe(dataset))
    out.say(_header(recipe, dataset, state, workdir))
    state, resume = _resume(state, workdir, out)

    stop = runs.StopOnSignal()
    early = EarlyStopping(recipe.monitor, recipe.patience, recipe.min_delta) if recipe.patience else None
    callbacks = _callbacks(recipe, args, out, workdir, stop, early, rate, total_steps)
    train_batches = functools.partial(_epoch, dataset, recipe.batch_size, data_key)
    state, history = fit(
        state,
        train_batches,
        functools.partial(_whole, dataset.validation, recipe) if len(dataset.validation) else None,
        epochs=recipe.epochs,
        callbacks=callbacks,
        train_step=_train_step(recipe),
        progress=False,
        resume=resume,
    )
    if stop.received is not None:
        return _stopped(stop.received, state, history, workdir, out)
    test = evaluate(state, _whole(dataset.test, recipe)).compute()
    best = early.best_epoch if early and early.best_epoch else len(history)
    result = _result(recipe, config, state, history, best, test, workdir)
    workdir.finish(result)
    out.result(result, [*_summary(result), *_curves(workdir, history)])
    return 0


def _epoch(dataset: Dataset, batch_size: int, key: jax.Array, epoch: int, start: int = 0) -> Any:
    return batches(dataset.train, batch_size, key=key, epoch=epoch, train=True, start=start)


def _whole(split: Any, recipe: Recipe) -> Any:
    return batches(split, loading.eval_batch_size(recipe.batch_size, split.image_shape))


def _optimizer(recipe: Recipe, examples: int, total_steps: int) -> tuple[Schedule, Any]:
    warmup_steps = round(recipe.warmup_epochs * examples / recipe.batch_size)
    rate = make_schedule(recipe.schedule, recipe.learning_rate, total_steps, warmup_steps=warmup_steps)
    decay = recipe.weight_decay
    return rate, make_optimizer(recipe.optimizer, rate, momentum=recipe.momentum, weight_decay=decay)


def _train_step(recipe: Recipe) -> Any:
    loss = functools.partial(softmax_cross_entropy, label_smoothing=recipe.label_smoothing)
    return make_train_step(loss=loss, augment=augment.parse(recipe.augment))


def _resume(state: TrainState, workdir: runs.Workdir, out: Output) -> tuple[TrainState, Any]:
    newest = runs.newest_checkpoint(workdir.checkpoints)
    if newest is None:
        return state, None
    arrays, position = runs.load(newest)
    out.say(f"resuming at step {position['step']} (epoch {position['epoch'] + 1})")
    return runs.restore_state(state, arrays), (position, runs.callback_arrays(arrays))


def _callbacks(
    recipe: Recipe,
    args: argparse.Namespace,
    out: Output,
    workdir: runs.Workdir,
    stop: Callback,
    early: EarlyStopping | None,
    rate: Schedule,
    total_steps: int,
) -> list[Callback]:
    """Return the callbacks in the order in which they must see an epoch: what is saved comes last."""
    callbacks: list[Callback] = [stop, Progress(out.words, epoch_steps=total_steps // recipe.epochs)]
    if early is not None:
        callbacks.append(early)
    callbacks.append(CsvHistory(workdir.path / "history.csv"))
    if not args.no_tensorboard:
        callbacks.append(TensorBoard(workdir.path / "tensorboard", learning_rate=rate))
    callbacks.append(runs.Checkpoints(workdir.checkpoints, every_steps=args.checkpoint_every))
    return callbacks


def _describe(dataset: Dataset) -> dict[str, Any]:
    """Return what `eval` and `predict` need to know of the data without reading them."""
    info = dataset.info
    return {
        "source": info.source,
        "digests": dict(info.digests),
        "class_names": list(info.class_names),
        "image_shape": list(info.image_shape),
        "input_shape": list(dataset.train.image_shape),
        "mean": list(info.mean),
        "std": list(info.std),
        "examples": [len(dataset.train), len(dataset.validation), len(dataset.test)],
    }


def _header(recipe: Recipe, dataset: Dataset, state: TrainState, workdir: runs.Workdir) -> str:
    train, validation, test = (f"{len(s):,}" for s in (dataset.train, dataset.validation, dataset.test))
    return (
        f"{recipe.model}: {state.num_params:,} parameters\n"
        f"{recipe.dataset}: {train} images to train on, {validation} to validate, {test} to test; "
        f"{dataset.info.num_classes} classes; {dataset.info.source}\n"
        f"workdir: {workdir.path}"
    )


def _stopped(number: int, state: TrainState, history: History, workdir: runs.Workdir, out: Output) -> int:
    step, name = int(state.step), signal.Signals(number).name
    last = history[-1] if len(history) else {}
    found = f", last validation accuracy {last['val_accuracy']:.2%}" if "val_accuracy" in last else ""
    line = f"{name}: stopped at step {step:,}, in epoch {len(history) + 1}{found}; saved. "
    line += f"The same command with --workdir {workdir.path} goes on."
    out.result({"stopped": name, "steps": step, "epochs": len(history), "workdir": str(workdir.path)}, [line])
    return 128 + number


def _result(
    recipe: Recipe,
    config: dict[str, Any],
    state: TrainState,
    history: History,
    best: int,
    test: dict[str, float],
    workdir: runs.Workdir,
) -> dict[str, Any]:
    """Return the run's result; losses of training and validation are those of the epoch whose parameters were kept."""
    row = history[best - 1]
    return {
        "model": recipe.model,
        "dataset": recipe.dataset,
        "recipe": config["recipe"],
        "seed": config["seed"],
        "params": state.num_params,
        "epochs": len(history),
        "best_epoch": best,
        "steps": history[-1]["step"],
        "seconds": round(sum(history["seconds"]), 1),
        "train_loss": row["train_loss"],
        "val_loss": row.get("val_loss"),
        "val_accuracy": row.get("val_accuracy"),
        "test_loss": test["loss"],
        "test_accuracy": test["accuracy"],
        "test_top5": test["top5"],
        "workdir": str(workdir.path),
    }


def _summary(result: dict[str, Any]) -> list[str]:
    return [
        f"{result['epochs']} epochs, {result['steps']:,} steps, {result['seconds']:.1f} s; "
        f"kept epoch {result['best_epoch']}",
        f"test: {result['test_accuracy']:.2%} correct, loss {result['test_loss']:.4f}, "
        f"label among the first five {result['test_top5']:.2%}",
        f"next: cnnjax eval --workdir {result['workdir']}  |  cnnjax predict --workdir {result['workdir']} IMAGE",
    ]


def _curves(workdir: runs.Workdir, history: History) -> list[str]:
    """Draw the learning curves if matplotlib is there; say how to get it if not."""
    if importlib.util.find_spec("matplotlib") is None:
        return ["no learning curve drawn: pip install 'cnnjax[plot]' brings matplotlib"]
    from cnnjax.cli.plots import learning_curves

    path = workdir.path / "curves.png"
    learning_curves(history, path)
    return [f"learning curve: {path}"]
