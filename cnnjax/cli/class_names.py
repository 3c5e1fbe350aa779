"""The names of the classes that weights from a file are for."""

import pathlib

from cnnjax.errors import CnnjaxError, UsageError


def read_names(path: pathlib.Path | None) -> list[str]:
    """Return the names of a file's classes, one a line; without a file, ImageNet's.

    Args:
      path: What `--classes` gave.
    Raises:
      CnnjaxError: If it is no text file.
      UsageError: If it is empty, or a name is in it twice: an answer would not say which of the two is meant.
    """
    from cnnjax.pretrained.catalogue import imagenet_classes

    if path is None:
        return list(imagenet_classes())
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
