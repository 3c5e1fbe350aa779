"""`cnnjax train`: from words on the command line to a finished run in a workdir."""

import argparse
import dataclasses
import pathlib
from typing import Any

from cnnjax import recipes
from cnnjax.cli import loading, modelling
from cnnjax.cli.output import Output
from cnnjax.errors import UsageError, unknown
from cnnjax.recipes import Recipe

_MONITORED = tuple(f"{split}_{metric}" for split in ("train", "val") for metric in ("loss", "accuracy", "top5"))


def add_parser(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser("train", parents=[common], help="train a model on a dataset")
    parser.set_defaults(run=run, parser=parser)
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="model name, or package.module:Class of a linen module")
    add("--dataset", metavar="NAME", help="dataset name (cnnjax data list), or folder:DIR of one folder a class")
    add(
        "--recipe",
        metavar="NAME",
        help=f"one of: {', '.join(recipes.available())}; default: the model's and dataset's own",
    )
    add("--epochs", type=int, metavar="N", help="epochs at most")
    add("--batch-size", type=int, metavar="N", help="examples a step")
    add("--optimizer", metavar="NAME", help="sgd, momentum, nesterov, adam, adamw, lars, lamb, rmsprop")
    add("--learning-rate", type=float, metavar="X", help="greatest learning rate")
    add("--schedule", metavar="NAME", help="constant, cosine, step, one-cycle")
    add("--warmup-epochs", type=float, metavar="X", help="epochs of linear rise before the schedule")
    add("--boundaries", type=float, nargs="*", metavar="X", help="step schedule: where the rate falls, in (0, 1)")
    add("--factor", type=float, metavar="X", help="step schedule: what the rate is multiplied by there")
    add("--momentum", type=float, metavar="X", help="for momentum, nesterov, lars and rmsprop")
    add("--weight-decay", type=float, metavar="X", help="decoupled for adamw, lamb and lars, else L2")
    add("--clip-norm", type=float, metavar="X", help="greatest norm of the gradients")
    add("--aux-weight", type=float, metavar="X", help="weight of an auxiliary head's loss")
    add("--label-smoothing", type=float, metavar="X", help="in [0, 1)")
    add("--augment", nargs="*", metavar="NAME:N", help="such as translate:2 (shift by up to 2 pixels)")
    add("--image-size", type=int, metavar="PIXELS", help="resize images to this side, inside jit")
    add("--validation", type=int, metavar="N", help="examples taken out of the training set for validation")
    add("--monitor", metavar="NAME", help="what early stopping watches, such as val_loss or val_accuracy")
    add("--patience", type=int, metavar="N", help="epochs without improvement before stopping early")
    add("--min-delta", type=float, metavar="X", help="what counts as an improvement")
    add("--seed", type=int, default=0, metavar="N", help="decides initial values, order and augmentation")
    add("--workdir", type=pathlib.Path, metavar="DIR", help="where the run lives; the same command again resumes it")
    loading.add_options(parser)
    add("--weights", metavar="FILE", help="start from published weights, or `imagenet` for MODEL's official ones")
    add(
        "--freeze",
        metavar="REGEX",
        help="keep parameters and statistics whose path matches, such as '^(stem|stage[12])'",
    )
    add("--checkpoint-every", type=int, metavar="STEPS", help="save within epochs too")
    add("--no-tensorboard", action="store_true", help="write no TensorBoard files")


def run(args: argparse.Namespace, out: Output) -> int:
    """Train, evaluate on the test set once, print the result."""
    recipe_name, recipe = choose_recipe(args)
    _check(recipe, args)
    from cnnjax.cli import training_run

    config = {"recipe": recipe_name, **dataclasses.asdict(recipe), "seed": args.seed}
    if args.weights is not None or args.freeze is not None:
        config |= {"weights": args.weights, "freeze": args.freeze}
    if recipe_name and args.recipe is None:
        out.say(f"recipe: {recipe_name} (made for {recipe.model} on {recipe.dataset}; see --recipe)")
    return training_run.run(recipe, config, args, out)


def choose_recipe(args: argparse.Namespace) -> tuple[str | None, Recipe]:
    """Return the recipe that the options name, changed as they say, and its name."""
    if args.recipe is not None:
        name, recipe = args.recipe, recipes.get(args.recipe)
    elif args.model and args.dataset:
        name, recipe = recipes.default_for(args.model, args.dataset)
    else:
        raise UsageError("train: expected MODEL and --dataset NAME, or --recipe NAME. See cnnjax train --help.")
    dataset = recipe.dataset if args.dataset is None else args.dataset
    if dataset.startswith("folder:"):  # found again from any folder
        args.dataset = f"folder:{pathlib.Path(dataset.removeprefix('folder:')).expanduser().absolute()}"
    changes = {f.name: getattr(args, f.name) for f in dataclasses.fields(Recipe)}
    for several in ("augment", "boundaries"):
        if changes[several] is not None:
            changes[several] = tuple(changes[several])
    return name, recipe.replace(**changes)


def _check(recipe: Recipe, args: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is loaded, in the order of the words."""
    from cnnjax import data
    from cnnjax.data import augment
    from cnnjax.training import OPTIMIZERS, SCHEDULES, EarlyStopping

    modelling.check_model_name(recipe.model)
    if not recipe.dataset.startswith("folder:") and recipe.dataset not in data.available():
        raise unknown("dataset", recipe.dataset, [*data.available(), "folder:DIR"])
    for kind, name, known in (("optimizer", recipe.optimizer, OPTIMIZERS), ("schedule", recipe.schedule, SCHEDULES)):
        if name not in known:
            raise unknown(kind, name, known)
    augment.parse(recipe.augment)
    numbers = {"--epochs": recipe.epochs, "--batch-size": recipe.batch_size, "--image-size": recipe.image_size}
    numbers |= {"--patience": recipe.patience, "--checkpoint-every": args.checkpoint_every}
    for option, number in numbers.items():
        if number is not None and number < 1:
            raise UsageError(f"{option}: expected at least 1, got {number}.")
    if recipe.patience is not None:
        EarlyStopping(recipe.monitor, recipe.patience, recipe.min_delta)
    if recipe.monitor not in _MONITORED:
        raise unknown("metric to monitor", recipe.monitor, _MONITORED)
    if not 0 <= args.seed < 2**32:  # beyond that, JAX keeps only the lower half
        raise UsageError(f"--seed: expected 0 to {2**32 - 1}, got {args.seed}.")
    if not 0 <= recipe.warmup_epochs < recipe.epochs:
        raise UsageError(f"--warmup-epochs: expected 0 to less than the epochs, got {recipe.warmup_epochs}.")
    if not all(0 < share < 1 for share in recipe.boundaries) or not 0 < recipe.factor < 1:
        raise UsageError(
            f"--boundaries, --factor: expected numbers in (0, 1), got {recipe.boundaries} and {recipe.factor}."
        )
    if recipe.clip_norm is not None and not recipe.clip_norm > 0:
        raise UsageError(f"--clip-norm: expected more than 0, got {recipe.clip_norm}.")
    if not 0 <= recipe.label_smoothing < 1:
        raise UsageError(f"--label-smoothing: expected a number in [0, 1), got {recipe.label_smoothing}.")
