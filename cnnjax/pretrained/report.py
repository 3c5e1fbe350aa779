"""What `load` did, tensor by tensor, for a person and as JSON; and what it says when a file does not fit."""

import pathlib
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from cnnjax.pretrained.match import Assignment, Plan, Shapes, nearest
from cnnjax.pretrained.readers import printable
from cnnjax.pretrained.tensors import SourceFile

# In the message; in the list behind it; and of that, with the nearest names, which take time to find.
_SHOWN, _LISTED, _NEAREST = 4, 1000, 25
# How the reason begins for a tensor outside the net's state.
LEFT_OUT = "not in the state: "
# Dropped in such numbers, and for so plain a reason, that the table goes without their rows.
_WITHOUT_ROWS = ("num_batches_tracked", LEFT_OUT)


@dataclass(frozen=True)
class Entry:
    """One line of a report.

    Args:
      source: Name in the file; None for a parameter that was initialised.
      source_shape: Shape in the file.
      dtype: Type in the file.
      action: `loaded`, `dropped` or `initialised`.
      transform: What was done to the values; empty for nothing.
      destination: Path in the model; None for a tensor that was dropped.
      shape: Shape in the model.
      reason: Why it was not loaded.
    """

    source: str | None
    source_shape: tuple[int, ...] | None
    dtype: str | None
    action: str
    transform: str = ""
    destination: str | None = None
    shape: tuple[int, ...] | None = None
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """Every tensor of the file and every parameter of the model, each exactly once.

    Args:
      model: The model's class.
      path: The file.
      format: What kind of file it is.
      naming: Whose names it has.
      entries: In the order of the file, then the parameters that were initialised.
      notes: What else the reader noticed.
      file_classes: Classes of the file where its head was not taken, 0 where it has none; None where it was.
    """

    model: str
    path: pathlib.Path
    format: str
    naming: str
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()
    file_classes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {**asdict(self), "path": str(self.path)}

    def __str__(self) -> str:
        """Return the report as a table, reasons that are shared by many tensors said once."""
        rows = [("tensor", "shape", "transformation", "parameter", "shape")]
        for entry in self.entries:
            if entry.action != "dropped" or not entry.reason.startswith(_WITHOUT_ROWS):
                rows.append(_row(entry))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = [f"{self.path}: {self.format}, names of {self.naming}, read into {self.model}"]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        reasons = Counter(f"{entry.action}: {entry.reason}" for entry in self.entries if entry.reason)
        lines += [f"{count} {reason}" for reason, count in reasons.items()]
        return "\n".join([*lines, *self.notes])


def loaded_entries(assignment: Assignment, shapes: Shapes) -> list[Entry]:
    """Return the lines of a tensor that was loaded, one for each of its destinations."""
    source, parts = assignment.source, len(assignment.destinations)
    text = assignment.transform.text
    if parts > 1:
        text = f"{text}, split in {parts}" if text else f"split in {parts}"
    return [
        Entry(source.name, source.shape, source.dtype.name, "loaded", text, path, shapes[path])
        for path in assignment.destinations
    ]


def dropped_entry(file: SourceFile, name: str, reason: str) -> Entry:
    """Return the line of a tensor that was not taken."""
    tensor = file.tensors[name]
    return Entry(name, tensor.shape, tensor.dtype.name, "dropped", reason=reason)


def explain_misfit(file: SourceFile, plan: Plan, shapes: Shapes, model: str, expected: dict[str, str]) -> str:
    """Return one line that lists what is missing, left over and misshaped, with the nearest names.

    Args:
      file: The file.
      plan: What matching found.
      shapes: The model's parameters.
      model: Its class.
      expected: For a path, the name that the file would have for it.
    """
    spare = {name: sorted(file.tensors[name].shape) for name in plan.left_over}
    parts = [
        _part("missing", plan.missing, lambda path: _missing(path, shapes[path], spare, expected)),
        _part("left over", list(plan.left_over), lambda name: _left_over(file, name, plan, expected)),
        _part("misshaped", plan.misshaped, lambda assignment: _misshaped(assignment, shapes)),
        _part("filled twice", plan.doubled, str),
    ]
    return (
        f"{file.path}: it does not fit {model} by the names of {plan.naming}: " + "; ".join(filter(None, parts)) + "."
    )


def list_misfit(file: SourceFile, plan: Plan, shapes: Shapes, expected: dict[str, str]) -> str:
    """Return all of what `explain_misfit` begins to list, one a line; nearest names for the first of each kind.

    Args:
      file: The file.
      plan: What matching found.
      shapes: The model's parameters.
      expected: For a path, the name that the file would have for it.
    """
    spare = {name: sorted(file.tensors[name].shape) for name in plan.left_over}
    kinds = (
        ("missing", plan.missing, lambda p: _missing(p, shapes[p], spare, expected), str),
        ("left over", list(plan.left_over), lambda n: _left_over(file, n, plan, expected), str),
        ("misshaped", plan.misshaped, lambda a: _misshaped(a, shapes), lambda a: _misshaped(a, shapes)),
        ("filled twice", plan.doubled, str, str),
    )
    lines: list[str] = []
    for title, items, text, short in kinds:
        lines += [f"{title}: {text(item) if n < _NEAREST else short(item)}" for n, item in enumerate(items[:_LISTED])]
        lines += [f"{title}: and {len(items) - _LISTED} more"] if len(items) > _LISTED else []
    return "\n".join(map(printable, lines))


def _part(title: str, items: list[Any], text: Any) -> str:
    if not items:
        return ""
    more = f", and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{len(items)} {title}: " + ", ".join(text(item) for item in items[:_SHOWN]) + more


def _missing(path: str, shape: tuple[int, ...], spare: dict[str, Any], expected: dict[str, str]) -> str:
    wanted = expected.get(path, path)
    near = nearest(wanted, spare, spare, sorted(shape))
    hint = f", nearest {near}" if near else ""
    return f"{path} {list(shape)} (expected {wanted}{hint})" if wanted != path or hint else f"{path} {list(shape)}"


def _left_over(file: SourceFile, name: str, plan: Plan, expected: dict[str, str]) -> str:
    path = plan.left_over[name]
    shown = f"{name[:80]} {list(file.tensors[name].shape)}"
    if path is not None:
        return f"{shown} (there is no {path})"
    near = nearest(name, [expected.get(p, p) for p in plan.missing] or expected.values())
    return f"{shown} (nearest {near})" if near else shown


def _misshaped(assignment: Assignment, shapes: Shapes) -> str:
    source, target = assignment.source, assignment.transform.target
    wanted = " + ".join(f"{path} {list(shapes[path])}" for path in assignment.destinations)
    return f"{source.name[:80]} {list(source.shape)} {source.dtype} would be {list(target)}, expected float {wanted}"


def _row(entry: Entry) -> tuple[str, str, str, str, str]:
    return (
        (entry.source or "-")[:100],
        "-" if entry.source_shape is None else _shape(entry.source_shape),
        entry.transform if entry.action == "loaded" else entry.action,
        entry.destination or "-",
        "" if entry.shape is None else _shape(entry.shape),
    )


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
