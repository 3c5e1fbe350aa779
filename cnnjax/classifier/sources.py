"""What a classifier can be made from: where its weights are, and what is known of their images and classes."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from cnnjax import model_loading, modes, pretrained, runs, safetensors, training
from cnnjax.errors import CnnjaxError, UsageError
from cnnjax.pretrained import Preprocess, Report
from cnnjax.pretrained.download import download
from cnnjax.pretrained.preprocessing import from_json, plain_preprocess, preprocess_names

Log = Callable[[str], None]
# Of the text in a safetensors file's header that describes a classifier.
KEY = "cnnjax"
# What a publisher's preprocessing is called beside a model's name.
_PUBLISHERS = {"torchvision": "", "timm": "", "keras": ":keras"}


class Described(NamedTuple):
    """What a file of weights says beside them; None where it says nothing."""

    preprocess: Preprocess | None = None
    class_names: tuple[str, ...] | None = None


def say(log: Log | None, lines: Sequence[str]) -> None:
    """Give lines to whoever wants to know."""
    if log is not None:
        for line in lines:
            log(line)


def fetch(name: str, *, log: Log | None = None, progress: Any = None) -> pathlib.Path:
    """Return where an official file is, after fetching it if it is not there yet."""
    file = pretrained.published(name)
    path = download(file, progress=progress)
    say(log, [f"{path}: {file.licence}"])
    return path


def load(
    model: nn.Module | str, path: Any, num_classes: int | None, options: Mapping[str, Any]
) -> tuple[Any, Any, Any]:
    """Return a model with as many classes as asked for, or as the file has, its variables and the report.

    Args:
      model: The model, or its name.
      path: The file.
      num_classes: Classes that it gets; None for the file's own.
      options: For `pretrained.load`.
    """
    net: Any = model
    if isinstance(model, str):
        base = model_loading.model_name(model)
        fits = [] if ":" in base or options else pretrained.identify(pretrained.open_file(path), [base])
        net = fits[0].build() if fits else model_loading.build_model(model, num_classes or 1000)
        net = net.clone(num_classes=num_classes) if num_classes and hasattr(net, "num_classes") else net
    variables, report = pretrained.load(net, path, **options)
    if num_classes is None and report.file_classes and isinstance(model, str):
        net = net.clone(num_classes=report.file_classes)
        variables, report = pretrained.load(net, path, **options)
    return net, variables, report


def restore(path: pathlib.Path) -> tuple[nn.Module, dict[str, Any], Preprocess, tuple[str, ...], list[str]]:
    """Return a run's model, variables, preprocessing and class names, and what is to be known of them.

    Args:
      path: The run's folder.
    Raises:
      CnnjaxError: If there is no run or no checkpoint, or it can't be read.
    """
    config, described = runs.read_run(path)
    newest = runs.load_newest(path / "checkpoints")
    if newest is None:
        raise CnnjaxError(f"no checkpoint in {path} yet. Train there first: cnnjax train ... --workdir {path}.")
    checkpoint, arrays, position, notes = newest
    if not runs.is_final(checkpoint):
        notes.append(f"the run is not finished: these are its parameters after step {position['step']}")
    names, rule = described["class_names"], run_preprocess(described, config.get("pixel_range"))
    options = {"precision": config.get("precision", "float32"), "options": config.get("model_options", ())}
    model = model_loading.build_model(config["model"], len(names), **options)
    # Shapes are enough: every value comes from the checkpoint, and compiling an initialisation takes seconds.
    make = functools.partial(training.create_state, model, optax.identity(), (*rule.size, rule.depth))
    state = jax.eval_shape(lambda key: make(key=key), jax.random.key(0)).replace(key=None)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)
    averages = {name.removeprefix("ema/"): value for name, value in arrays.items() if name.startswith("ema/")}
    return model, runs.restore_variables(state, arrays | averages).variables, rule, tuple(names), notes


def read_file(
    model: nn.Module | str,
    path: str | pathlib.Path,
    preprocess: Preprocess | str | None,
    class_names: Sequence[str] | None,
    log: Log | None,
    options: Mapping[str, Any],
) -> tuple[nn.Module, dict[str, Any], Any, tuple[str, ...]]:
    """Do what `Classifier.from_file` says, and return the classifier's four parts, for `parts.checked_parts`."""
    name = model if isinstance(model, str) else type(model).__name__
    net, variables, report = load(model, path, len(class_names) if class_names else None, options)
    say(log, [f"{path}: {note}" for note in report.notes])
    if report.file_classes == 0 or not getattr(net, "include_top", True):
        raise CnnjaxError(f"{path}: it has no classifier. Train one first: cnnjax train {name} --weights {path}.")
    if report.file_classes is not None:
        have = f"it has another number of classes than {net.num_classes}: {report.file_classes}"
        raise CnnjaxError(f"{path}: {have}. Name each of its classes.")
    known = describe_loaded(name, net, path, report)
    names = class_names or known.class_names or map(str, range(count_classes(net, variables)))
    return net, variables, preprocess or known.preprocess, tuple(names)


def check_classes(names: Sequence[str], dataset: Any) -> None:
    """Refuse a dataset of another number of classes than a net's, or of the same ones in another order."""
    if not hasattr(dataset, "info"):  # a split of one
        raise UsageError(
            f"expected a whole dataset, got {type(dataset).__name__}. Give that, and split='test' beside it."
        )
    info = dataset.info
    if info.num_classes != len(names):
        raise UsageError(f"{info.name}: it has {info.num_classes} classes, expected {len(names)}, as the net has.")
    if tuple(info.class_names) != tuple(names) and set(info.class_names) == set(names):
        raise UsageError(f"{info.name}: it has its classes in another order than the net.")


def describe(path: str | pathlib.Path) -> Described:
    """Return what a file of weights, or a run's workdir, says of its images and classes."""
    path = pathlib.Path(path)
    if (path / "run.json").exists():
        config, described = runs.read_run(path)
        return Described(run_preprocess(described, config.get("pixel_range")), tuple(described["class_names"]))
    if not path.is_file():
        return Described()
    try:
        record = json.loads(safetensors.read_metadata(path).get(KEY, "{}"))
        rule, names = record.get("preprocess"), record.get("class_names")
        return Described(from_json(rule) if rule else None, tuple(map(str, names)) if names else None)
    except (ValueError, TypeError, AttributeError):  # whatever another program wrote there
        return Described()


def known_preprocess(name: str, path: pathlib.Path) -> Preprocess | None:
    """Return how the images of a file are prepared, before it is read: as it says, or as its publisher does.

    Args:
      name: MODEL.
      path: The file.
    """
    described, base = describe(path).preprocess, model_loading.model_name(name)
    if described is not None or ":" in base:
        return described
    for fit in pretrained.identify(pretrained.open_file(path), [base]):
        known = rule_name(name, fit.naming, fit.num_classes or 0)
        return pretrained.preprocess(known) if known else None
    return None


def run_preprocess(described: Mapping[str, Any], pixel_range: Sequence[float] | None = None) -> Preprocess:
    """Return how a run's images are prepared, of what the run says of its data."""
    size, recorded = tuple(described["input_shape"][:2]), described.get("preprocess")
    rule = from_json(recorded) if recorded else plain_preprocess(described["mean"], described["std"], min(size))
    stored = rule.of_stored(tuple(described["image_shape"]), size)
    return dataclasses.replace(stored, pixel_range=tuple(pixel_range)) if pixel_range else stored


def rule_name(name: str, naming: str, num_classes: int | None) -> str | None:
    """Return whose preprocessing goes with a file, or None if that is not known.

    Args:
      name: MODEL, or the name of an official file.
      naming: Whose names the file's tensors have.
      num_classes: Of the file: one of another number was trained by somebody else.
    """
    known, publisher = preprocess_names(), naming.rpartition(" ")[2]
    if num_classes not in (0, 1000):
        return None
    if publisher not in _PUBLISHERS:
        return name if ":" in name and name in known else None
    return next((each for each in (f"{name}{_PUBLISHERS[publisher]}", name) if each in known), None)


def describe_loaded(name: str, model: nn.Module, path: str | pathlib.Path, report: Report) -> Described:
    """Return what is known of weights that fit a model: what their file says, or else their publisher.

    Args:
      name: MODEL, or the name of an official file.
      model: With as many classes as the file.
      path: The file.
      report: Of `pretrained.load`.
    """
    known, imagenet = describe(path), pretrained.imagenet_classes()
    top = getattr(model, "include_top", True)
    count = getattr(model, "num_classes", None) if top else 0
    rule, names = rule_name(name, report.naming, count), imagenet if count == len(imagenet) else None
    preprocess = pretrained.preprocess(rule) if rule else None
    return Described(known.preprocess or preprocess, known.class_names or names)


def metadata(preprocess: Preprocess | None, class_names: Sequence[str] | None) -> dict[str, str]:
    """Return the texts for a file's header that `describe` reads."""
    rule = None if preprocess is None else dataclasses.asdict(preprocess)
    names = None if class_names is None else list(class_names)
    return {KEY: json.dumps({"preprocess": rule, "class_names": names})} if rule or names else {}


def count_classes(model: nn.Module, variables: Any) -> int:
    """Return the width of a model's logits."""
    if isinstance(getattr(model, "num_classes", None), int):
        return model.num_classes
    images = jax.ShapeDtypeStruct((1, *model.input_shape), jnp.float32)
    call = functools.partial(model.apply, **modes.train_kwargs(model, train=False))
    return jax.eval_shape(call, variables, images).shape[-1]
