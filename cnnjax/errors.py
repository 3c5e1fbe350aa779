"""Errors that a user can cause and mend, each with one line that says what and where."""

import difflib
from collections.abc import Iterable, Sequence


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


def channels_first(shape: Sequence[int]) -> str:
    """Return what to write where images' shape looks like `[N, C, H, W]`, as PyTorch has it, else nothing.

    Args:
      shape: Four numbers.
    Example:
      >>> channels_first((8, 3, 32, 32))
      'The shape (8, 3, 32, 32) looks like channels first: write images.transpose(0, 2, 3, 1), for [N, H, W, C].'
    """
    _, channels, height, width = shape
    # One row of many pixels with many features is a signal; as many pixels as features is an image.
    if min(height, width) <= 4 or not (channels in (3, 4) or (channels == 1 and height == width)):
        return ""
    return f"The shape {tuple(shape)} looks like channels first: write images.transpose(0, 2, 3, 1), for [N, H, W, C]."
