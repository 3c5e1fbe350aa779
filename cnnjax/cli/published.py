"""From `MODEL --weights FILE` to a net that can be asked: its variables and its preprocessing."""

import argparse
import pathlib
from collections import Counter
from typing import TYPE_CHECKING, Any

from cnnjax.cli import image_rule, modelling
from cnnjax.cli.output import Output
from cnnjax.errors import CnnjaxError, UsageError

if TYPE_CHECKING:
    from flax import linen as nn

    from cnnjax.data import Dataset
    from cnnjax.pretrained.preprocessing import Preprocess
    from cnnjax.training import TrainState

_CLASSES = 1000  # of ImageNet


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a file of weights."""
    parser.add_argument(
        "--weights", metavar="FILE", help="published weights, or `imagenet` for the official file of MODEL"
    )
    image_rule.add_options(parser)


def load(
    args: argparse.Namespace, name: str, out: Output, *, num_classes: int = _CLASSES
) -> tuple["TrainState", "Preprocess | None"]:
    """Return the state of a net with weights from a file, and how its images are prepared; None if that is not known.

    Args:
      args: `weights`, the file, or `imagenet` for the official one, which is fetched if it is not there yet; and the
        options of `image_rule`.
      name: MODEL, or the name of an official file such as `resnet50:v2`.
      out: Where notes go.
      num_classes: Classes that the file must have.
    Raises:
      CnnjaxError: If the file can't be had, does not fit, or has another number of classes.
      UsageError: If images can't be prepared as the user said.
    """
    import jax
    import optax

    from cnnjax import pretrained
    from cnnjax.pretrained import preprocessing
    from cnnjax.training import create_state

    shape = _input_shape(name)
    rule = image_rule.chosen(args, name, shape)
    path = path_of(name, args.weights, out)
    model = modelling.build_model(model_name(name), num_classes)
    variables, report = pretrained.load(model, path)
    for note in report.notes:
        out.say(f"{path}: {note}")
    if any(entry.action == "initialised" for entry in report.entries):
        raise CnnjaxError(
            f"{path}: it has another number of classes than {num_classes}. Name its classes, one a line of a file, "
            "with --classes, or give it a dataset that has them."
        )
    state = create_state(model, optax.identity(), shape, key=jax.random.key(0), variables=variables)
    known = rule_name(name, report.naming) if rule is None and num_classes == _CLASSES else None
    return state, preprocessing.preprocess(known) if known else rule


def start(model: "nn.Module", name: str, weights: str, out: Output) -> dict[str, Any]:
    """Return the variables that training starts from; a head for other classes is left at its initial values.

    Args:
      model: The net.
      name: MODEL.
      weights: The file, or `imagenet` for the official one, which is fetched if it is not there yet.
      out: Where it is said what was loaded.
    Raises:
      CnnjaxError: If the file can't be had or does not fit.
    """
    from cnnjax import pretrained

    path = path_of(name, weights, out)
    variables, report = pretrained.load(model, path)
    counts = Counter(entry.action for entry in report.entries)
    out.say(f"weights: {path}: " + ", ".join(f"{count} {action}" for action, count in sorted(counts.items())))
    for reason in dict.fromkeys(entry.reason for entry in report.entries if entry.reason):
        out.say(f"weights: {reason}")
    for note in report.notes:
        out.say(f"{path}: {note}")
    return variables


def path_of(name: str, weights: str | pathlib.Path, out: Output) -> pathlib.Path:
    """Return where a file of weights is.

    Args:
      name: MODEL, or the name of an official file such as `resnet50:v2`.
      weights: The file, or `imagenet` for the official one, which is fetched if it is not there yet.
      out: Where notes go.
    Raises:
      CnnjaxError: If the official file can't be had.
    """
    return _fetch(name, out) if str(weights) == "imagenet" else pathlib.Path(weights)


def model_name(name: str) -> str:
    """Return MODEL for the name of an official file, such as `resnet50` for `resnet50:v2`; any other name as it is."""
    return name.partition(":")[0] if name in _official() else name


def rule_name(name: str, naming: str) -> str | None:
    """Return whose preprocessing goes with a file, or None if that is not known.

    Args:
      name: MODEL.
      naming: Whose names the file's tensors have.
    """
    from cnnjax.pretrained.preprocessing import preprocess_names

    publishers = {"torchvision": "", "timm": "", "keras": ":keras"}
    if naming not in publishers:
        return name if ":" in name and name in preprocess_names() else None
    return next((known for known in (f"{name}{publishers[naming]}", name) if known in preprocess_names()), None)


def unknown_rule(name: str, weights: str) -> UsageError:
    """Return the error for a file that does not say whose preprocessing goes with it.

    Args:
      name: MODEL.
      weights: The file.
    """
    from cnnjax.pretrained.preprocessing import preprocess_names

    likely = [known for known in preprocess_names() if known.partition(":")[0] == name]
    such = " or ".join(likely or ["resnet50 (torchvision's)", "resnet50_v1 (Keras's)"])
    plain = "--mean and --std of the images that it was trained on"
    # Every published rule is for colours.
    ways = f"--preprocess NAME, such as {such}, or {plain}" if _input_shape(name)[2] == 3 else plain
    return UsageError(f"{name}: how images are prepared for {weights} is not known. Give {ways}.")


def load_for_dataset(args: argparse.Namespace, out: Output) -> tuple["TrainState", "Dataset"]:
    """Return a net and the dataset that it is to be evaluated on, prepared as the net wants it.

    A net whose preprocessing is not known gets the images as the dataset's own recipes do.

    Args:
      args: `model`, `weights`, `dataset`, `data_dir`, `source_dir`, and the options of `image_rule`.
      out: Where notes go.
    Raises:
      UsageError: If the dataset's images have another number of channels than the net takes.
    """
    from cnnjax import data

    if args.model is None or args.dataset is None:
        raise UsageError(
            "--weights: expected MODEL and --dataset too, as in: eval resnet50 --weights FILE --dataset NAME."
        )
    options: dict[str, Any] = {"data_dir": args.data_dir, "source_dir": args.source_dir, "log": out.say}
    options |= {"pixel_range": args.pixel_range} if args.pixel_range else {}
    args.dataset = data.resolve(args.dataset)
    name = _cut_when_read(args.dataset)
    height, width, depth = _input_shape(args.model)
    published_for = (height, width)
    # A folder is read again below, at the size that is wanted; what is said of it is said then.
    of_a_folder = {"image_size": published_for, "log": None} if args.dataset.startswith("folder:") else {}
    dataset = data.load_dataset(name, **{**options, **of_a_folder})
    found = dataset.info.image_shape[2]
    if found != depth:
        raise UsageError(
            f"--dataset {args.dataset}: its images have {found} channel{'s' * (found > 1)}, "
            f"{args.model} takes {depth}. Give a dataset or a net to match."
        )
    state, rule = load(args, args.model, out, num_classes=dataset.info.num_classes)
    if rule is None:
        if of_a_folder:
            dataset = _as_trained(args, options, published_for, out)
        size = modelling.image_size_for(args.model, dataset.info.image_shape)
        return state, dataset.resized(size) if size else dataset
    if args.image_size:
        raise UsageError(f"--image-size: {args.weights} has its own rule, {rule.crop} pixels. Leave it out.")
    try:
        sizes = {"image_size": (rule.crop, rule.crop), "resize_size": rule.resize}
        dataset = data.load_dataset(name, **options, **sizes)
    except UsageError:  # a set in memory, all images of one size: there is nothing to cut from
        dataset = dataset.resized((rule.crop, rule.crop))
    return _with_rule(state, rule, dataset.info.mean, dataset.info.std), dataset


def _cut_when_read(dataset: str) -> str:
    """Return the name of a dataset, of a folder such that its photographs are resized and cut one by one."""
    path, _, given = dataset.removeprefix("folder:").rpartition("?")
    if not dataset.startswith("folder:") or "crop=random" in given:
        return dataset
    return (
        f"{dataset},crop=random" if path and not pathlib.Path(f"{path}?{given}").is_dir() else f"{dataset}?crop=random"
    )


def _as_trained(
    args: argparse.Namespace, options: dict[str, Any], published_for: tuple[int, int], out: Output
) -> "Dataset":
    """Return a folder's images as `train` has them; if they differ in size, of the size that the net is for."""
    from cnnjax import data

    if args.image_size:
        return data.load_dataset(args.dataset, **options, image_size=args.image_size)
    try:
        return data.load_dataset(args.dataset, **options)
    except UsageError:
        dataset = data.load_dataset(args.dataset, **options, image_size=published_for)
        out.say(f"images differ in size: cut to {published_for}, as {args.model} was published for (--image-size)")
        return dataset


def _input_shape(model: str) -> tuple[int, int, int]:
    return getattr(modelling.build_model(model_name(model), _CLASSES), "input_shape", (224, 224, 3))


def _with_rule(state: "TrainState", rule: "Preprocess", mean: Any, std: Any) -> "TrainState":
    """Return the state with a net that takes images as a dataset normalises them and prepares them by its own rule."""
    import jax.numpy as jnp

    apply_fn = state.apply_fn
    shape = (1, 1, 1, rule.depth)
    means, stds = (jnp.asarray(values, jnp.float32).reshape(shape) for values in (mean, std))

    def apply(variables: Any, x: Any, **options: Any) -> Any:
        return apply_fn(variables, rule.normalize((x * stds + means) * 255), **options)

    return state.replace(apply_fn=apply)


def _official() -> list[str]:
    from cnnjax.pretrained.catalogue import published_names

    return published_names()


def _fetch(name: str, out: Output) -> pathlib.Path:
    """Return where the official file of a net is, after fetching it with a progress bar."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from cnnjax.pretrained.catalogue import published
    from cnnjax.pretrained.download import download

    file = published(name)
    if not file.options.get("include_top", True):
        raise UsageError(f"{name}: its official file has no classifier. Load it with cnnjax.pretrained.load.")
    name_column = TextColumn("{task.description}", markup=False)
    columns = (name_column, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(file=out.words)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(file.file_name, total=None)
        path = download(file, progress=lambda done, whole: bar.update(task, completed=done, total=whole))
    out.say(f"{path}: {file.licence}")
    return path
