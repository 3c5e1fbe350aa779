"""What a training run says of itself: before it begins, when it is stopped, and when it has ended."""

import dataclasses
import importlib.util
import pathlib
import shlex
import signal
from typing import Any

from cnnjax.cli.output import Output
from cnnjax.data import Dataset, epoch_range
from cnnjax.pretrained import Preprocess
from cnnjax.recipes import Recipe
from cnnjax.runs import Workdir
from cnnjax.training import History, TrainState

# Fewer steps an epoch than this and most settings made for larger sets learn next to nothing.
_FEW_STEPS = 10


def describe(dataset: Dataset, preprocess: Preprocess | None = None) -> dict[str, Any]:
    """Return what `eval` and `predict` need to know of the data without reading them, as JSON values."""
    info = dataset.info
    return {
        "source": info.source,
        "digests": dict(info.digests),
        "class_names": list(info.class_names),
        "image_shape": list(info.image_shape),
        "input_shape": list(dataset.train.image_shape),
        "mean": list(info.mean),
        "std": list(info.std),
        "preprocess": None if preprocess is None else dataclasses.asdict(preprocess),
        "examples": [len(dataset.train), len(dataset.validation), len(dataset.test)],
    }


def header(recipe: Recipe, dataset: Dataset, state: TrainState, workdir: Workdir) -> str:
    """Return the lines that say what is about to be trained on what, and how."""
    train, validation, test = (f"{len(s):,}" for s in (dataset.train, dataset.validation, dataset.test))
    settings = f"{recipe.optimizer} {recipe.learning_rate:g} {recipe.schedule}, batch {recipe.batch_size}"
    settings += f", at most {recipe.epochs} epochs"
    settings += f", patience {recipe.patience} on {recipe.monitor}" if recipe.patience else ""
    settings += f", {' '.join(recipe.augment)}" if recipe.augment else ""
    lines = [
        f"model: {recipe.model}, {state.num_params:,} parameters",
        f"data: {recipe.dataset}, {dataset.info.num_classes} classes, images: {train} to train on, "
        f"{validation} to validate, {test} to test",
        f"source: {dataset.info.source}",
        f"settings: {settings}",
        f"workdir: {workdir.path}",
    ]
    steps = len(epoch_range(len(dataset.train), recipe.batch_size, 0))
    if steps < _FEW_STEPS:
        lines.append(f"note: only {steps} steps an epoch; a smaller --batch-size or more --epochs may learn more")
    return "\n".join([*lines, "compiling ..."])


def stopped(number: int, state: TrainState, history: History, epochs: int, workdir: Workdir | None, out: Output) -> int:
    """Say that a signal ended the run and how to go on; return the exit code."""
    if workdir is None:  # the main process says so
        return 128 + number
    step, name = int(state.step), signal.Signals(number).name
    last = history[-1] if len(history) else {}
    found = f", last validation accuracy {last['val_accuracy']:.2%}" if "val_accuracy" in last else ""
    where = "after the last epoch, before the test" if len(history) == epochs else f"in epoch {len(history) + 1}"
    line = f"{name}: stopped at step {step:,}, {where}{found}; saved. "
    line += f"The same command with --workdir {_quoted(workdir.path)} goes on."
    out.result({"stopped": name, "steps": step, "epochs": len(history), "workdir": str(workdir.path)}, [line])
    return 128 + number


def result(
    recipe: Recipe,
    config: dict[str, Any],
    state: TrainState,
    history: History,
    best: int | None,
    test: dict[str, float],
    workdir: Workdir,
) -> dict[str, Any]:
    """Return the run's result; losses of training and validation are those of the epoch whose parameters were kept.

    Args:
      recipe: What was trained.
      config: The recipe as recorded.
      state: The state that was kept.
      history: A row an epoch.
      best: The epoch that early stopping kept; None for the last one.
      test: Averages over the test set.
      workdir: Where the run lives.
    """
    kept = best or len(history)
    row = history[kept - 1]
    return {
        "model": recipe.model,
        "dataset": recipe.dataset,
        "recipe": config["recipe"],
        "seed": config["seed"],
        "params": state.num_params,
        "epochs": len(history),
        "kept_epoch": kept,
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


def summary(result: dict[str, Any]) -> list[str]:
    """Return the result as lines for a person."""
    epochs = result["epochs"]
    kept = f"kept epoch {result['best_epoch']}, the best" if result["best_epoch"] else "kept the last epoch"
    workdir = _quoted(result["workdir"])
    return [
        f"trained {epochs} epoch{'s' if epochs > 1 else ''}, {result['steps']:,} steps, in {result['seconds']:.1f} s, "
        f"compiling and validation included; {kept}",
        f"test: {result['test_accuracy']:.2%} correct, loss {result['test_loss']:.4f}, "
        f"label among the first five {result['test_top5']:.2%}",
        f"next: cnnjax eval --workdir {workdir}  |  cnnjax predict --workdir {workdir} IMAGE",
    ]


def curves(workdir: Workdir, history: History) -> str:
    """Draw the learning curves if matplotlib is there, and return a line about it; a failure is no more than that."""
    if importlib.util.find_spec("matplotlib") is None:
        return "no learning curve drawn: matplotlib is not installed"
    path = workdir.path / "curves.png"
    try:
        _draw_curves(history, path)
    except OSError as error:
        return f"no learning curve drawn: {path}: {error.strerror}"
    return f"learning curve: {path}"


def _draw_curves(history: History, path: pathlib.Path) -> None:
    """Draw loss and accuracy by epoch, training and validation, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # A figure of its own instead of pyplot's: no global state, no display, no window.
    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    epochs = history["epoch"]
    for axes, metric, scale in zip(figure.subplots(1, 2), ("loss", "accuracy"), (1.0, 100.0)):
        # Colours of Okabe and Ito, which the colour-blind tell apart; the line's style says it again.
        for split, label, style, colour in (
            ("train", "training", "--", "#0072B2"),
            ("val", "validation", "-", "#D55E00"),
        ):
            if f"{split}_{metric}" in history[0]:
                values = [scale * value for value in history[f"{split}_{metric}"]]
                axes.plot(epochs, values, style, color=colour, label=label, marker="." if len(epochs) < 40 else None)
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss (nats)" if metric == "loss" else "accuracy (%)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    canvas.print_png(str(path))


def _quoted(path: Any) -> str:
    return shlex.quote(str(path))
