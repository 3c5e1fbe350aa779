"""Files that are there whole or not at all."""

import pathlib

from cnnjax.errors import CnnjaxError


def write_text(path: str | pathlib.Path, text: str) -> None:
    """Write a text file aside and give it its name when it is whole.

    Args:
      path: The file; an old one stays as it is until the new one takes its place.
      text: What is to be in it.
    Raises:
      CnnjaxError: If it cannot be written; nothing of it stays.
    """
    path = pathlib.Path(path)
    aside = path.with_name(f"{path.name}.tmp")
    try:
        with aside.open("w", newline="") as file:
            file.write(text)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise CnnjaxError(f"cannot write {path}: {error.strerror}.") from error
