"""What a training run starts from, if not from scratch: a file of weights, and how it wants its images."""

import argparse
import pathlib
from collections import Counter
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from cnnjax import data, model_loading, pretrained
from cnnjax.classifier import sources
from cnnjax.cli import classifier_options
from cnnjax.cli.output import Output
from cnnjax.errors import UsageError
from cnnjax.pretrained import Preprocess
from cnnjax.pretrained.preprocessing import plain_preprocess
from cnnjax.recipes import Recipe


class Start(NamedTuple):
    """Weights that a run starts from.

    Args:
      path: The file.
      preprocess: How it wants its images; None for the dataset's own way.
    """

    path: pathlib.Path
    preprocess: Preprocess | None


def find(recipe: Recipe, args: argparse.Namespace, out: Output) -> Start | None:
    """Return what the options say to start from, and say how images will be prepared; None for from scratch.

    Raises:
      CnnjaxError: If the file can't be had.
    """
    if args.weights is None:
        return None
    if args.preprocess == "dataset":
        out.say("images: prepared by the dataset's own mean and std, whatever the weights knew (--preprocess dataset)")
        return Start(classifier_options.weights_path(args, recipe.model, out), None)
    rule = classifier_options.chosen_preprocess(args, recipe.model)
    path = classifier_options.weights_path(args, recipe.model, out)
    rule = rule or sources.known_preprocess(recipe.model, path)
    if rule is None:
        out.say(f"images: how they were for {path} is not known; by the dataset's mean and std (--preprocess NAME)")
    else:
        numbers = f"(pixel * {rule.scale:.4g} - {rule.mean}) / {rule.std}"
        out.say(f"images: prepared as the weights know them, {rule.channels}, {numbers} (--preprocess dataset: not so)")
    return Start(path, rule)


def load(model: nn.Module, start: Start, key: jax.Array, args: argparse.Namespace, out: Output) -> dict[str, Any]:
    """Return the variables that training starts from; a head for other classes is a new one.

    Args:
      model: The net.
      start: From `find`.
      key: PRNG key of a new head.
      args: What `classifier_options.add_weights` adds.
      out: Where it is said what was loaded.
    Raises:
      CnnjaxError: If the file does not fit.
    """
    variables, report = pretrained.load(model, start.path, key=key, **classifier_options.load_options(args))
    counts = Counter(entry.action for entry in report.entries)
    out.say(f"weights: {start.path}: " + ", ".join(f"{count} {action}" for action, count in sorted(counts.items())))
    for reason in dict.fromkeys(entry.reason for entry in report.entries if entry.reason):
        out.say(f"weights: {reason}")
    for note in report.notes:
        out.say(f"{start.path}: {note}")
    return variables


def for_grey_or_colours(start: Start | None, name: str, dataset: data.Dataset, out: Output) -> Preprocess | None:
    """Return how a run's images are prepared, where the net was made for colours and the dataset is grey too.

    Args:
      start: From `find`.
      name: MODEL.
      dataset: What is trained on.
      out: Where it is said if images are converted.
    Raises:
      UsageError: If coloured images would have to become grey, and by what numbers is not known.
    """
    if start is None:
        return None
    rule, info, shape = start.preprocess, dataset.info, model_loading.input_shape(name)
    given, wanted = info.image_shape[2], rule.depth if rule is not None else shape[2] if shape else None
    if wanted in (None, given):
        return rule
    if rule is None and given == 1:
        rule = plain_preprocess(info.mean * 3, info.std * 3, info.image_shape[0])
    if rule is None:
        raise UsageError(
            f"--dataset: images have {given} channels, {name}'s weights were made for {wanted}. Give --mean and --std "
            "of the images that they were trained on."
        )
    out.say(f"images: {'grey, given to the net as colours' if given == 1 else 'colours, given to the net as grey'}")
    return rule
