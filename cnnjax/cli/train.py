"""`cnnjax train`: from words on the command line to a finished run in a workdir."""

import argparse
import dataclasses
import pathlib
from typing import Any

from cnnjax import files, model_loading, recipes
from cnnjax.cli import hosts, train_options
from cnnjax.cli.output import Output
from cnnjax.errors import UsageError
from cnnjax.recipes import Recipe

# Fields of a recipe whose options take several words.
_SEVERAL = ("augment", "boundaries", "model_options", "pixel_range", "lr_multipliers")


def add_parser(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser("train", parents=[common], help="train a model on a dataset")
    parser.set_defaults(run=run, parser=parser)
    train_options.add(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Train, evaluate on the test set once, print the result."""
    if args.workdir is not None and not (
        args.process or args.distributed
    ):  # before JAX is imported, which takes seconds
        files.check_lock(args.workdir)
    recipe_name, recipe = choose_recipe(args)
    train_options.check(recipe, args)
    out = hosts.join(args, out)
    from cnnjax.cli import training_run

    config = {"recipe": recipe_name, **recipe.to_json(), "seed": args.seed}
    if args.weights is not None or args.freeze is not None:
        config |= {"weights": args.weights, "freeze": args.freeze}
    # Only what was given, as it was before these were recorded.
    config |= {name: getattr(args, name) for name in train_options.OF_WEIGHTS if getattr(args, name) is not None}
    if recipe_name and args.recipe is None:
        out.say(f"recipe: {recipe_name} (made for {recipe.model} on {recipe.dataset}; see --recipe)")
    try:
        return training_run.run(recipe, config, args, out)
    except RuntimeError as error:
        raise hosts.explain(error) from error


def choose_recipe(args: argparse.Namespace) -> tuple[str | None, Recipe]:
    """Return the recipe that the options name, changed as they say, and its name."""
    if args.recipe is not None:
        name, recipe = args.recipe, recipes.get(args.recipe)
    elif args.model and args.dataset:
        name, recipe = recipes.default_for(model_loading.model_name(args.model), args.dataset)
        recipe = recipe.replace(model=args.model)
    else:
        raise UsageError("train: expected MODEL and --dataset NAME, or --recipe NAME. See cnnjax train --help.")
    from cnnjax import data

    dataset = data.resolve(recipe.dataset if args.dataset is None else args.dataset)
    if dataset.startswith("folder:"):  # found again from any folder
        args.dataset = f"folder:{pathlib.Path(dataset.removeprefix('folder:')).expanduser().absolute()}"
    elif dataset.startswith("tfds:"):
        args.dataset = dataset
    changes = {f.name: getattr(args, f.name) for f in dataclasses.fields(Recipe)}
    for several in _SEVERAL:
        if changes[several] is not None:
            changes[several] = tuple(changes[several])
    return name, recipe.replace(**changes)
