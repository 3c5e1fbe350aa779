"""From the name of a dataset to its images, at the size that a net takes."""

import argparse
import functools
import pathlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnjax import model_loading
from cnnjax.cli.output import Output
from cnnjax.errors import UsageError, unknown
from cnnjax.recipes import Recipe

if TYPE_CHECKING:
    from cnnjax import Classifier
    from cnnjax.data import Dataset
    from cnnjax.pretrained import Preprocess


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the data are."""
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


def check_name(name: str) -> None:
    """Refuse the name of a dataset that there is none of, with what to type instead.

    Raises:
      UsageError: If it is not known.
    """
    from cnnjax import data

    if name.startswith(("folder:", "tfds:")) or name in data.available():
        return
    if name.startswith("hf:"):
        fetch = f"`hf download {name[3:]} --repo-type dataset --local-dir DIR`"
        raise UsageError(f"--dataset {name}: cnnjax does not fetch from Hugging Face. Run {fetch}, then folder:DIR.")
    error = unknown("dataset", name, [*data.available(), "folder:DIR", "tfds:NAME"])
    raise UsageError(f"{error} Of any other set, save the images, one folder a class, and type --dataset folder:DIR.")


def load(recipe: Recipe, args: argparse.Namespace, out: Output, rule: "Preprocess | None" = None) -> "Dataset":
    """Return the recipe's dataset, its images resized to what the model takes.

    Args:
      recipe: What is trained.
      args: What `add_options` adds.
      out: Where notes go.
      rule: How the weights that a run starts from want their images.
    Raises:
      CnnjaxError: If the data can't be had or are not what they should be.
    """
    from cnnjax.classifier.sources import needed_size

    side = recipe.image_size
    size, resize = (side, side) if side else None, None
    if size is None and rule is not None:
        size, resize = rule.size, rule.resize
    options = {"validation": recipe.validation, "pixel_range": recipe.pixel_range}

    def own_size() -> tuple[int, int]:
        return _own_size(model_loading.build_model(recipe.model, 10, options=recipe.model_options), recipe.model, out)

    dataset = _of_size(recipe.dataset, args, out, size, resize, choose_size=own_size, **options)
    if size is None:
        model = model_loading.build_model(recipe.model, 10, options=recipe.model_options)
        size = needed_size(model, dataset.info.image_shape)
        if size is not None:
            out.say(f"images of shape {dataset.info.image_shape} are too small for {recipe.model}: resized to {size}")
            dataset = dataset.resized(size)
    if not len(dataset.train):
        raise UsageError(f"dataset {recipe.dataset}: nothing is left to train on. Give a smaller --validation.")
    if not len(dataset.test):
        raise UsageError(f"dataset {recipe.dataset}: no image falls into the test set. Add images, or a folder test.")
    return dataset


def as_recorded(recipe: Recipe, described: Mapping[str, Any], args: argparse.Namespace, out: Output) -> "Dataset":
    """Return the dataset of a run, its images of the size that it was trained with.

    Args:
      recipe: What was trained.
      described: What the run says of its data.
      args: What `add_options` adds.
      out: Where notes go.
    """
    from cnnjax.pretrained.preprocessing import from_json

    return load(recipe, args, out, from_json(described["preprocess"]) if described.get("preprocess") else None)


def for_weights(args: argparse.Namespace, classifier: "Classifier", out: Output) -> "Dataset":
    """Return the dataset that weights from a file are evaluated on, of the size that the net knows.

    Without a preprocessing that is known, images are prepared as the dataset's own recipes do.

    Args:
      args: `model`, `weights`, `dataset`, `image_size`, `pixel_range`, and what `add_options` adds.
      classifier: The net.
      out: Where notes go.
    Raises:
      UsageError: If a size is given for a net that has its own.
    """
    from cnnjax import data

    name, rule, more = data.resolve(args.dataset), classifier.preprocess, {}
    if args.pixel_range:
        more["pixel_range"] = args.pixel_range
    if rule is not None:
        if args.image_size:
            raise UsageError(f"--image-size: {args.weights} has its own rule, {rule.crop} pixels. Leave it out.")
        return _of_size(_cut_when_read(name), args, out, rule.size, rule.resize, **more)
    own_size = functools.partial(_own_size, classifier.model, args.model, out)
    return _of_size(name, args, out, args.image_size, choose_size=own_size, **more)


def _own_size(model: Any, name: str, out: Output) -> tuple[int, int]:
    size = getattr(model, "input_shape", (224, 224))[:2]
    out.say(f"images differ in size: cut to {size}, as {name} was published for (--image-size)")
    return size


def _of_size(
    name: str, args: argparse.Namespace, out: Output, size: Any = None, resize: int | None = None, **options: Any
) -> "Dataset":
    from cnnjax import data

    check_name(name)
    options |= {"data_dir": args.data_dir, "source_dir": args.source_dir, "log": out.say, "image_size": size}
    try:
        return data.load_dataset(name, resize_size=resize, **options)
    except UsageError:
        if resize is None:
            raise
        return data.load_dataset(name, **options)  # a set in memory: there is nothing to cut from


def _cut_when_read(dataset: str) -> str:
    """Return the name of a dataset, of a folder such that its photographs are resized and cut one by one."""
    path, _, given = dataset.removeprefix("folder:").rpartition("?")
    if not dataset.startswith("folder:") or "crop=random" in given:
        return dataset
    return (
        f"{dataset},crop=random" if path and not pathlib.Path(f"{path}?{given}").is_dir() else f"{dataset}?crop=random"
    )
