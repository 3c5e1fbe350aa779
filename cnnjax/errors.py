"""Errors that a user can cause and mend, each with one line that says what and where."""

import difflib
from collections.abc import Iterable


class CnnjaxError(Exception):
    """The work failed through something outside the program: a file, a disk, a value (exit code 1)."""


class UsageError(CnnjaxError, ValueError):
    """What was asked for does not exist or does not fit together (exit code 2)."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a name that is not known, with the nearest name first.

    Args:
      kind: What the name was to name, such as `"model"`.
      name: The name as the user wrote it.
      known: Every name that would have done.
    Returns:
      The error, to be raised by the caller.
    Example:
      >>> str(unknown("model", "lenet", ["lenet5", "resnet18"]))
      "unknown model 'lenet': did you mean 'lenet5'? Known: lenet5, resnet18."
    """
    known = sorted(known)
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    hint = f": did you mean {near[0]!r}?" if near else "."
    return UsageError(f"unknown {kind} {name!r}{hint} Known: {', '.join(known)}.")
