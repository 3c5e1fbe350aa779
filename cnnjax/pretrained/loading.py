"""From a file of weights to a model's variables, or a list of what does not fit."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from cnnjax.errors import UsageError, unknown
from cnnjax.pretrained.head import allow_other_head, initialise
from cnnjax.pretrained.keras_config import compare
from cnnjax.pretrained.match import Assignment, Plan, Shapes, largest_part, match, prefixes, unwrapped
from cnnjax.pretrained.naming import CNNJAX, KERAS, TORCH, Naming, Rule, as_rules, source_name
from cnnjax.pretrained.report import (
    LEFT_OUT,
    Entry,
    Report,
    dropped_entry,
    explain_misfit,
    list_misfit,
    loaded_entries,
)
from cnnjax.pretrained.rules import namings_for
from cnnjax.pretrained.tensors import SourceFile, WeightsError, check_sha256, open_file

_LAYOUTS = {"torch": TORCH, "safetensors": TORCH, "msgpack": CNNJAX, "orbax": CNNJAX}


def load(
    model: nn.Module,
    path: str | pathlib.Path,
    *,
    source: str = "auto",
    rules: Sequence[Rule | tuple[str, str]] | None = None,
    prefix: str | None = None,
    which: str | None = None,
    sha256: str | None = None,
    key: jax.Array | None = None,
) -> tuple[dict[str, Any], Report]:
    """Read published weights into a model's variables: every tensor used once, every parameter set once.

    The content of the file decides how it is read. Nothing in it is executed, and values of another float type become
    float32. If the file has another number of classes, or the model was built with `include_top=False`, the head is
    left at its initialisation, or left out, and the report says so; nothing else may be missing or left over.

    Args:
      model: A linen module, with `input_shape` for the images it takes.
      path: A file of PyTorch, safetensors, Keras or Flax msgpack, an Orbax folder, a folder or an index of safetensors
        files, or a run's workdir.
      source: Whose names the file has (`torchvision`, `timm`, `keras`, `cnnjax`); `auto` takes those that fit best.
      rules: Your own names, tried before the family's: pairs of templates such as `("linear", "head/logits")`, or
        `Rule`s. `cnnjax.pretrained.naming` explains templates.
      prefix: What stands before the names, such as `backbone.`; those without it are left out. None takes off what
        all names have in common, and the report says so.
      which: The state to take where a file of PyTorch has several, such as `state_dict_ema`; None takes the usual one,
        and the report says what else there is.
      sha256: What the file's sha256 must be or begin with, if you know it: the one way to notice changed values.
      key: PRNG key of a head that is left at its initialisation; `jax.random.key(0)` if None.
    Returns:
      The variables, `{"params": ..., "batch_stats": ...}`, float32, and the report.
    Raises:
      WeightsError: If the file can't be read or does not fit; the message lists what is missing, left over or of
        another shape, with the nearest names: the first few, and in its note, which a traceback shows, all.
      UsageError: If there is no such source.
    Example:
      A CIFAR ResNet with option-A shortcuts that was saved from a `DataParallel` model has torchvision's names but for
      its classifier, `module.linear.weight`; `module.` is no part of the names and needs no rule:

      `load(models.build("resnet20", num_classes=10), "resnet20.th", rules=[("linear", "head/logits")])`

      Rules name modules, without `.weight` or `.bias`; a letter in braces is a number, and `{j-1}` is one less:
      `rules=[("first", "stem/conv"), ("block{i}.{j}.conv{k}", "stage{i}_block{j-1}/conv{k}/conv")]`
    """
    if sha256 is not None:
        check_sha256(path, sha256)
    file = open_file(path, which or "")
    shapes = abstract_shapes(model)
    namings = _namings(model, file, source, as_rules(rules or ()))
    plans = [(plan_for(file, model, shapes, naming, prefix), naming) for naming in namings]
    plan, naming = min(plans, key=lambda pair: pair[0].problems)
    head = allow_other_head(plan, model, shapes, abstract_shapes)
    plan = head.plan
    if plan.problems:
        plan = _plan_of_a_part(plan, file, model, shapes, naming) if prefix is None else plan
        names = {path: source_name(path, naming.rules_for(model), naming.layout) for path in shapes}
        expected = {path: f"{plan.prefix}{name}" if name else path for path, name in names.items()}
        error = WeightsError(explain_misfit(file, plan, shapes, type(model).__name__, expected))
        error.add_note(list_misfit(file, plan, shapes, expected))  # a traceback shows it, the command line does not
        raise error
    said = compare(file, plan, model)
    values = {path: value for assignment in plan.assigned for path, value in _read(file, assignment, shapes).items()}
    values |= initialise(model, head.initialised, jax.random.key(0) if key is None else key)
    entries: list[Entry] = []
    assigned = {assignment.source.name: assignment for assignment in plan.assigned}
    for name in file.tensors:
        if name in assigned:
            entries += loaded_entries(assigned[name], shapes)
        else:
            entries.append(dropped_entry(file, name, head.skipped.get(name) or plan.dropped[name]))
    entries += [
        Entry(beside.name, beside.shape, beside.dtype.name, "dropped", reason=f"{LEFT_OUT}{beside.reason}")
        for beside in file.left_out
    ]
    reason = f"from model.init with {'jax.random.key(0)' if key is None else 'the key that was given'}"
    if head.num_classes == 0:
        reason = f"the file has no classifier: {reason}"
    entries += [Entry(None, None, None, "initialised", "", path, shapes[path], reason) for path in head.initialised]
    notes = (*_notes(file, plan), *said)
    report = Report(type(model).__name__, file.path, file.format, plan.naming, tuple(entries), notes, head.num_classes)
    ordered = {path: jnp.asarray(values[path]) for path in shapes}
    return traverse_util.unflatten_dict(ordered, sep="/"), report


def abstract_shapes(model: nn.Module) -> Shapes:
    """Return the shape of every parameter and statistic of a model by its path; nothing is computed.

    Args:
      model: A linen module with `input_shape`.
    Raises:
      UsageError: If it says nothing of its input.
    """
    size = getattr(model, "input_shape", None)
    if size is None:
        raise UsageError(
            f"{type(model).__name__}: expected a model with an input_shape, (H, W, C). Give its class one."
        )
    images = jax.ShapeDtypeStruct((1, *size), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    flat: dict[str, Any] = traverse_util.flatten_dict(dict(variables), sep="/")
    return {path: tuple(leaf.shape) for path, leaf in flat.items()}


def plan_for(file: SourceFile, model: nn.Module, shapes: Shapes, naming: Naming, prefix: str | None = None) -> Plan:
    """Return which tensor of a file goes where, if its names are those of a naming.

    Args:
      file: The file.
      model: The model.
      shapes: Its parameters, from `abstract_shapes`.
      naming: Whose names to read them as.
      prefix: What stands before the names; None takes off as much of what all have in common as fits best.
    Raises:
      UsageError: If no name begins with the prefix.
    """
    rules, short = naming.rules_for(model), unwrapped(file.tensors).values()
    if prefix and not any(name.startswith(prefix) for name in short):
        raise UsageError(f"prefix {prefix!r}: no name in {file.path} begins with it; one is {next(iter(short), '')!r}.")
    tried = prefixes(short, naming.layout.separator) if prefix is None else [prefix]
    plans = [
        match(file, shapes, rules, naming.layout, naming=naming.name, prefix=p, only=prefix is not None) for p in tried
    ]
    return min(plans, key=lambda plan: plan.problems)


def _plan_of_a_part(plan: Plan, file: SourceFile, model: nn.Module, shapes: Shapes, naming: Naming) -> Plan:
    """Return the plan that the largest part of a file gives, such as a nested model, where it fits better than all."""
    prefix = largest_part(unwrapped(file.tensors).values(), naming.layout.separator)
    part = match(file, shapes, naming.rules_for(model), naming.layout, naming=naming.name, prefix=prefix)
    return part if part.problems < plan.problems else plan


def _notes(file: SourceFile, plan: Plan) -> tuple[str, ...]:
    """Return what is to be said of a file: the reader's words, and what was taken off its names."""
    said = [f"{plan.prefix!r} before the names was taken off."] if plan.prefix else []
    wrapped = sum(name != short for name, short in unwrapped(file.tensors).items())
    said += [f"Wrappers inside {wrapped} names were taken off."] if wrapped else []
    return (*file.notes, *said)


def _namings(model: nn.Module, file: SourceFile, source: str, rules: tuple[Rule, ...]) -> list[Naming]:
    """Return the namings to try, the user's rules before each one's own."""
    known = namings_for(model)
    if source != "auto":
        if source not in {naming.name for naming in known}:
            raise unknown("source", source, {naming.name for naming in known})
        known = [naming for naming in known if naming.name == source]
    fitting = [naming for naming in known if file.format in naming.formats]
    if not fitting and source != "auto":
        raise UsageError(f"{file.path}: it is a {file.format} file, expected one with {source}'s names.")
    if not rules:
        if fitting:
            return fitting
        raise WeightsError(f"{file.path}: no rules for {type(model).__name__} in {file.format} files. Give it rules=.")
    layout = _LAYOUTS.get(file.format, KERAS)
    own = [Naming("your rules", layout, rules, (file.format,))]
    return own + [_with(naming, rules, model) for naming in fitting]


def _with(naming: Naming, rules: tuple[Rule, ...], model: nn.Module) -> Naming:
    return dataclasses.replace(naming, name=f"your rules and {naming.name}", rules=(*rules, *naming.rules_for(model)))


def _read(file: SourceFile, assignment: Assignment, shapes: Shapes) -> dict[str, np.ndarray]:
    """Return the values of a tensor by the paths it goes to, float32."""
    stored = assignment.source.read()
    with np.errstate(over="ignore"):
        values = stored.astype(np.float32, copy=False)
    if stored.dtype == np.float64 and not np.array_equal(np.isinf(values), np.isinf(stored)):
        raise WeightsError(f"{file.path}: {assignment.source.name} has numbers that float32 can't hold.")
    values = assignment.transform.apply(values)
    if len(assignment.destinations) == 1:
        return {assignment.destinations[0]: values}
    widths = [shapes[path][-1] for path in assignment.destinations]
    ends = [math.fsum(widths[:n]) for n in range(1, len(widths))]
    return dict(zip(assignment.destinations, np.split(values, [int(end) for end in ends], axis=-1), strict=True))
