"""From a recipe to its dataset, at the size that its model takes."""

import argparse
from typing import TYPE_CHECKING

from cnnjax.cli import modelling
from cnnjax.cli.output import Output
from cnnjax.errors import UsageError
from cnnjax.recipes import Recipe

if TYPE_CHECKING:
    from cnnjax.data import Dataset

# Values in one evaluation batch: many small images at once, few large ones.
_EVAL_BATCH_VALUES = 2**19


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the data are."""
    from pathlib import Path

    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="where prepared datasets live (default: TFDS's own)"
    )
    parser.add_argument("--source-dir", type=Path, metavar="DIR", help="folder with the dataset's raw files")


def add_pixel_range(parser: argparse.ArgumentParser) -> None:
    """Add the option that says what black and white are stored as."""
    parser.add_argument(
        "--pixel-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="what black and white are stored as in pixels deeper than 8 bits, where the files do not say it",
    )


def load(recipe: Recipe, args: argparse.Namespace, out: Output) -> "Dataset":
    """Return the recipe's dataset, its images resized to what the model takes.

    Raises:
      CnnjaxError: If the data can't be had or are not what they should be.
    """
    from cnnjax import data

    side = recipe.image_size
    dataset = data.load_dataset(
        recipe.dataset,
        data_dir=args.data_dir,
        source_dir=args.source_dir,
        validation=recipe.validation,
        image_size=(side, side) if side else None,
        pixel_range=recipe.pixel_range,
        log=out.say,
    )
    if side is None:
        size = modelling.image_size_for(recipe.model, dataset.info.image_shape)
        if size is not None:
            out.say(f"images of shape {dataset.info.image_shape} are too small for {recipe.model}: resized to {size}")
            dataset = dataset.resized(size)
    if not len(dataset.train):
        raise UsageError(f"dataset {recipe.dataset}: nothing is left to train on. Give a smaller --validation.")
    if not len(dataset.test):
        raise UsageError(f"dataset {recipe.dataset}: no image falls into the test set. Add images, or a folder test.")
    return dataset


def eval_batch_size(batch_size: int, image_shape: tuple[int, ...]) -> int:
    """Return how many images to evaluate at once."""
    height, width, channels = image_shape
    return max(batch_size, min(500, _EVAL_BATCH_VALUES // (height * width * channels)))
