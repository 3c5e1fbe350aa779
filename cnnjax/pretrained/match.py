"""Which tensor of a file goes where in a model: every tensor once, every parameter once, or a list of what is wrong."""

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cnnjax.pretrained.naming import AVERAGED, Layout, Leaf, Rule, translate
from cnnjax.pretrained.tensors import BFLOAT16, SourceFile, SourceTensor
from cnnjax.pretrained.transforms import (
    Transform,
    from_channels_first,
    from_channels_last,
    from_flattened_channels,
    identity,
)

Shapes = dict[str, tuple[int, ...]]
# A message names the nearest of so many names; no net has more.
_COMPARED = 2000
# What torch.compile, activation checkpointing and FSDP put into names.
_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")


@dataclass(frozen=True)
class Assignment:
    """A tensor and the parameters it becomes.

    Args:
      source: The tensor.
      transform: What is done to it.
      destinations: One path, or several that share it along the last axis.
    """

    source: SourceTensor
    transform: Transform
    destinations: tuple[str, ...]


@dataclass
class Plan:
    """What `match` found.

    Args:
      naming: Whose names they were read as.
      prefix: What stands before every name and is no part of it.
      assigned: Tensors with their destinations.
      dropped: Tensors that a rule takes out, and its reason.
      left_over: Tensors that no rule knows, or whose destination the model does not have: name and that destination.
      missing: Parameters that nothing fills.
      misshaped: Tensors that would not fit their destination.
      doubled: Parameters that more than one tensor would fill.
    """

    naming: str
    prefix: str = ""
    assigned: list[Assignment] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    left_over: dict[str, str | None] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    misshaped: list[Assignment] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)

    @property
    def problems(self) -> int:
        """How many tensors and parameters are in the wrong place."""
        return len(self.left_over) + len(self.missing) + len(self.misshaped) + len(self.doubled)


@dataclass(frozen=True)
class _Place:
    """Where a rule sends a tensor; without destinations, why it is dropped."""

    destinations: tuple[str, ...]
    flatten: tuple[int, int] | None = None
    reason: str = ""


def match(
    file: SourceFile,
    shapes: Shapes,
    rules: Iterable[Rule],
    layout: Layout,
    *,
    naming: str,
    prefix: str = "",
    only: bool = False,
) -> Plan:
    """Return which tensor goes where; nothing is read.

    Args:
      file: The file.
      shapes: The model's parameters by their paths.
      rules: Tried in order for every tensor.
      layout: How the file's publisher calls and lays out a module's arrays.
      naming: The publisher, for the report.
      prefix: What stands before the names and is no part of them.
      only: Whether tensors without the prefix are left out.
    """
    plan, rules = Plan(naming, prefix), tuple(rules)
    filled: dict[str, str] = {}
    for name, short in unwrapped(file.tensors).items():
        tensor = file.tensors[name]
        if only and not short.startswith(prefix):
            plan.dropped[name] = f"its name does not begin with {prefix!r}, as asked for"
            continue
        place = _find_place(short.removeprefix(prefix), len(tensor.shape), rules, layout)
        if place is None:
            plan.left_over[name] = None
            continue
        if not place.destinations:
            plan.dropped[name] = place.reason
            continue
        absent = [path for path in place.destinations if path not in shapes]
        if absent:
            plan.left_over[name] = absent[0]
            continue
        assignment = _assign(tensor, place, shapes, layout, file.config.get("flatten") == "CHW")
        taken = [path for path in place.destinations if path in filled]
        plan.doubled += [f"{path} (by {filled[path]} and {name})" for path in taken]
        filled |= dict.fromkeys(place.destinations, name)
        (plan.assigned if _fits(assignment, shapes) else plan.misshaped).append(assignment)
    plan.missing = [path for path in shapes if path not in filled]
    return plan


def destinations(file: SourceFile, rules: Iterable[Rule], layout: Layout) -> set[str] | None:
    """Return where rules send the tensors of a file, whatever the model has; None if one is known to no rule.

    Args:
      file: The file.
      rules: Of a naming.
      layout: Of the naming.
    """
    short, rules = unwrapped(file.tensors), tuple(rules)
    for prefix in prefixes(short.values(), layout.separator):
        places = [
            _find_place(s.removeprefix(prefix), len(file.tensors[n].shape), rules, layout) for n, s in short.items()
        ]
        if None not in places:
            return {path for place in places if place for path in place.destinations}
    return None


def unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Return names without the parts that torch's wrappers put into their middle, by the names as they are."""
    short = {name: _WRAPPERS.sub("", name) for name in names}
    return short if len(set(short.values())) == len(short) else {name: name for name in short}


def prefixes(names: Iterable[str], separator: str) -> list[str]:
    """Return nothing, and all that the names have in common before a separator, such as `module.`, shortest first.

    Example:
      >>> prefixes(["net.body.a.weight", "net.body.b.bias", "n_averaged"], ".")
      ['', 'net.', 'net.body.']
    """
    folders = [name.split(separator)[:-1] for name in names if name != AVERAGED]
    found = [""]
    for parts in zip(*folders):
        if len(set(parts)) > 1:
            break
        found.append(f"{found[-1]}{parts[0]}{separator}")
    return found


def largest_part(names: Iterable[str], separator: str) -> str:
    """Return the first folder that more than half of the names have in common, with its separator, or nothing."""
    firsts = Counter(name.partition(separator)[0] for name in names)
    first, count = max(firsts.items(), key=lambda item: item[1], default=("", 0))
    return f"{first}{separator}" if 2 * count > sum(firsts.values()) else ""


def nearest(name: str, others: Iterable[str], shapes: dict[str, Any] | None = None, shape: Any = None) -> str | None:
    """Return the name most like this one, one of the same shape if there is any."""
    others = list(itertools.islice(others, _COMPARED))
    same = [other for other in others if shapes and shapes.get(other) == shape]
    words = _words(name)
    return max(same or others, key=lambda o: difflib.SequenceMatcher(None, words, _words(o)).ratio(), default=None)


def _words(name: str) -> str:
    return name[:100].replace("/", ".").replace("_", ".")


def _find_place(name: str, rank: int, rules: tuple[Rule, ...], layout: Layout) -> _Place | None:
    module, _, last = name.rpartition(layout.separator)
    leaf = _find_leaf(layout, last, rank)
    if leaf is not None and leaf.path is None:
        return _Place((), reason=f"{leaf.source}: {leaf.reason}")
    for rule in rules:
        if rule.target is None:
            if translate(rule.source, rule.source, name) is not None:
                return _Place((), reason=f"{rule.source}: {rule.reason}")
        elif rule.names_arrays or not layout.leaves:
            found = [translate(rule.source, target, name) for target in rule.targets]
            if None not in found:
                return _Place(tuple(path for path in found if path), rule.flatten)
        elif leaf is not None and leaf.path is not None:
            found = [translate(rule.source, target, module) for target in rule.targets]
            if None not in found:
                collection, array = leaf.path
                return _Place(tuple(f"{collection}/{path}/{array}" for path in found), rule.flatten)
    return None


def _find_leaf(layout: Layout, last: str, rank: int) -> Leaf | None:
    return next((leaf for leaf in layout.leaves if leaf.source == last and rank in leaf.ranks), None)


def _assign(tensor: SourceTensor, place: _Place, shapes: Shapes, layout: Layout, maps_first: bool) -> Assignment:
    shape, first = tensor.shape, place.destinations[0]
    transform = identity(shape)
    if maps_first and place.flatten and len(shape) == 2:
        transform = from_flattened_channels(shape, place.flatten)
    elif layout.channels_first and first.endswith("/kernel") and len(shape) in (2, 4):
        transform = from_channels_first(shape, flatten=place.flatten, dense=len(shapes[first]) == 2)
    elif layout.leaves and not layout.channels_first and first.endswith("/kernel") and len(shape) == 4:
        transform = from_channels_last(shape, shapes[first])
    elif layout.channels_first and shape[1:] == (1,) * (len(shape) - 1) and len(shape) > 1:
        transform = Transform("C11 -> C", shape, shape, tuple(range(len(shape))), shape[:1])
    return Assignment(tensor, transform, place.destinations)


def _fits(assignment: Assignment, shapes: Shapes) -> bool:
    targets = [shapes[path] for path in assignment.destinations]
    target = assignment.transform.target
    if assignment.source.dtype.kind != "f" and assignment.source.dtype != BFLOAT16:
        return False
    if len(targets) == 1:
        return target == targets[0]
    whole = all(t and t[:-1] == target[:-1] for t in targets)
    return whole and bool(target) and sum(t[-1] for t in targets) == target[-1]
