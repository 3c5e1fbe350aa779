"""The options that name a trained net: a run's workdir, or a model and a file of weights."""

import argparse
import math
import pathlib
from typing import TYPE_CHECKING, Any

from cnnjax import model_loading
from cnnjax.cli.output import Output
from cnnjax.errors import CnnjaxError, UsageError

if TYPE_CHECKING:
    from cnnjax import Classifier
    from cnnjax.pretrained import Preprocess

IMAGE_OPTIONS = "--preprocess, --mean, --std, --crop"


def add(parser: argparse.ArgumentParser, *, classes: bool = False) -> None:
    """Add the options that name a run, or a file of weights and what is to be known of it."""
    parser.add_argument("--workdir", type=pathlib.Path, metavar="DIR", help="the run's workdir")
    add_weights(parser)
    add_images(parser)
    if classes:
        parser.add_argument(
            "--classes", type=pathlib.Path, metavar="FILE.txt", help="names of the weights' classes, one a line"
        )


def check(args: argparse.Namespace, verb: str, word: str | None, expected: str, *, extra: str) -> None:
    """Refuse a run and a file at once, or neither, and options that a run has no use for.

    Args:
      args: What `add` adds, and `classes`, `image_size`, `model`, `dataset` where the verb has them.
      verb: For messages.
      word: The first word, which may be a workdir by mistake.
      expected: What was to be given.
      extra: What else goes with a file alone, for the message.
    Raises:
      UsageError: With what to type.
    """
    if (args.workdir is None) == (args.weights is None):
        if word and args.workdir is None and (pathlib.Path(word) / "run.json").exists():
            raise UsageError(f"{word} is a run's workdir: type cnnjax {verb} --workdir {word}")
        raise UsageError(f"{verb}: {expected}")
    of_a_file = ("preprocess", "mean", "std", "crop", "prefix", "rules", "which", "classes", "image_size", "dataset")
    given = [getattr(args, name, None) for name in (*of_a_file, "model")]
    if args.weights is None and any(value is not None for value in given):
        raise UsageError(f"{verb}: a run in a workdir has its own model and data; leave out {extra}.")


def add_weights(parser: argparse._ActionsContainer) -> None:
    """Add the options that name a file of weights and how its names are read."""
    add = parser.add_argument
    add("--weights", metavar="FILE", help="published weights, or `imagenet` for the official file of MODEL")
    add_names(parser)
    add(
        "--preprocess",
        metavar="NAME",
        help="how images are prepared: as for this published net (default: as the file says, or MODEL's publisher); "
        "`dataset` in train: by the dataset's own mean and std",
    )


def add_names(parser: argparse._ActionsContainer) -> None:
    """Add the options that say how names in a file are read."""
    add = parser.add_argument
    add("--prefix", metavar="TEXT", help="what stands before every name in the file and is no part of it")
    add(
        "--rules",
        nargs="+",
        metavar="OLD=NEW",
        help="names in the file that the net knows by others, such as `fc=head/logits`; tried before the known ones",
    )
    add("--which", metavar="NAME", help="which of several states in the file, such as `model_ema`")


def add_set(parser: argparse._ActionsContainer) -> None:
    """Add the option that sets a model's fields."""
    parser.add_argument(
        "--set",
        nargs="+",
        dest="model_options",
        metavar="FIELD=VALUE",
        help="fields of the model, such as dropout=0, or what the function takes that MODEL names",
    )


def add_images(parser: argparse._ActionsContainer) -> None:
    """Add the options that say how images are prepared for a file, by plain numbers."""
    add = parser.add_argument
    add(
        "--mean",
        metavar="M,M,M",
        help="in place of --preprocess: one number a channel (one for a net of grey images, such as lenet5), of "
        "pixels 0 to 1: the middle square of an image is resized, then (pixel - mean) / std",
    )
    add("--std", metavar="S,S,S", help="beside --mean: one number a channel")
    add("--crop", type=int, metavar="N", help="beside --mean: side of that square (default: MODEL's; MNIST's is 28)")


def load_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return what `cnnjax.pretrained.load` takes of the options.

    Raises:
      UsageError: If a rule is not of the form OLD=NEW.
    """
    rules = []
    for text in args.rules or ():
        old, _, new = text.partition("=")
        if not (old and new):
            raise UsageError(f"--rules: expected OLD=NEW, such as fc=head/logits, got {text!r}.")
        rules.append((old, new))
    options = {"prefix": args.prefix, "which": args.which, "rules": rules or None}
    return {name: value for name, value in options.items() if value is not None}


def weights_path(args: argparse.Namespace, name: str, out: Output) -> pathlib.Path:
    """Return where a file of weights is; `imagenet`, the official one of MODEL, is fetched with a progress bar.

    Raises:
      CnnjaxError: If the official file can't be had.
    """
    if str(args.weights).startswith("hf:"):
        model_loading.model_name(args.weights)
    if str(args.weights) != "imagenet":
        return pathlib.Path(args.weights)
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from cnnjax.classifier.sources import fetch

    name_column = TextColumn("{task.description}", markup=False)
    columns = (name_column, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(file=out.words)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        return fetch(name, log=out.say, progress=lambda done, whole: bar.update(task, completed=done, total=whole))


def read(args: argparse.Namespace, name: str | None, out: Output, *, for_photographs: bool = True) -> "Classifier":
    """Return the net that the options name.

    Args:
      args: `workdir`, or `weights` and what belongs to it.
      name: MODEL, with `weights`.
      out: Where notes go.
      for_photographs: Whether it must be known how images are prepared.
    Raises:
      CnnjaxError: If it can't be had, does not fit, or has another number of classes.
    """
    from cnnjax import Classifier, pretrained

    class_names = read_names(getattr(args, "classes", None))
    if args.weights is None:
        return Classifier.from_run(args.workdir, log=out.say)
    assert name is not None
    rule = chosen_preprocess(args, name)
    if args.weights == "imagenet" and not pretrained.published(name).options.get("include_top", True):
        train = f"cnnjax train {name} --weights imagenet --dataset NAME"
        raise UsageError(f"{name}: its official file has no classifier. Train one: {train}.")
    path = weights_path(args, name, out)
    options = load_options(args)
    made = Classifier.from_file(name, path, preprocess=rule, class_names=class_names, log=out.say, **options)
    if made.preprocess is None and for_photographs:
        raise _unknown_preprocess(name, args.weights)
    return made


def chosen_preprocess(args: argparse.Namespace, name: str) -> "Preprocess | None":
    """Return the preprocessing that the user gave, or None.

    Args:
      args: `preprocess`, and `mean`, `std`, `crop` where the verb has them.
      name: MODEL.
    Raises:
      UsageError: If the options contradict each other, or it is for another number of channels.
    """
    from cnnjax import pretrained
    from cnnjax.pretrained.preprocessing import plain_preprocess

    shape = model_loading.input_shape(name)
    if shape is None:
        raise UsageError(f"{name}: expected a model with an input_shape, (H, W, C). Give its class one.")
    if all(getattr(args, option, None) is None for option in ("mean", "std", "crop")):
        if not args.preprocess:
            return None
        rule = pretrained.preprocess(args.preprocess).of_size(shape)
        if rule.depth != shape[2]:
            raise UsageError(
                f"--preprocess {args.preprocess}: it prepares images of {rule.depth} channels, {name} takes {shape[2]}."
                " Give --mean and --std instead, one number a channel."
            )
        return rule
    if args.preprocess or args.mean is None or args.std is None:
        raise UsageError("expected --mean and --std together, or --preprocess NAME without them and --crop.")
    height, width, depth = shape
    if depth not in (1, 3):
        raise UsageError(f"--mean: expected a net of images of 1 or 3 channels, {name} takes {depth}.")
    if args.crop is None and height != width:
        raise UsageError(f"--mean: expected --crop too, since {name} is for images of {height} x {width}.")
    if args.crop is not None and args.crop < 1:
        raise UsageError(f"--crop: expected at least 1, got {args.crop}.")
    mean, std = (_numbers(option, getattr(args, option), depth, name) for option in ("mean", "std"))
    if min(std) <= 0:
        raise UsageError(f"--std: expected numbers above 0, got {args.std}.")
    return plain_preprocess(mean, std, args.crop or height)


def _unknown_preprocess(name: str, weights: str) -> UsageError:
    """Return the error for a file that does not say whose preprocessing goes with it."""
    from cnnjax.pretrained.preprocessing import preprocess_names

    likely = [known for known in preprocess_names() if known.partition(":")[0] == name]
    such = " or ".join(likely or ["resnet50 (torchvision's)", "resnet50_v1 (Keras's)"])
    plain = "--mean and --std of the images that it was trained on"
    shape = model_loading.input_shape(name)
    # Every published rule is for colours.
    ways = f"--preprocess NAME, such as {such}, or {plain}" if shape and shape[2] == 3 else plain
    return UsageError(f"{name}: how images are prepared for {weights} is not known. Give {ways}.")


def read_names(path: pathlib.Path | None) -> list[str] | None:
    """Return the names in a file, one a line; None without a file.

    Raises:
      CnnjaxError: If it is not a text file.
      UsageError: If it is empty, or a name is in it twice: an answer would not say which of the two is meant.
    """
    if path is None:
        return None
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CnnjaxError(f"{path}: expected a text file with a name a line.") from error
    if not names:
        raise UsageError(f"{path}: expected a name a line, it is empty.")
    first: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if first.setdefault(name, number) != number:
            raise UsageError(
                f"{path}: expected a name for each class, {name!r} is in lines {first[name]} and {number}."
            )
    return names


def _numbers(option: str, text: str, depth: int, model: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != depth or not all(map(math.isfinite, numbers)):
        raise UsageError(
            f"--{option}: expected a number for each channel that {model} takes ({depth}), separated by commas, "
            f"got {text!r}."
        )
    return numbers
