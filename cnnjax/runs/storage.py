"""Checkpoints on disk: durable once they have their name, verified to the last byte when they are read.

A checkpoint is a folder: `arrays.safetensors`, `position.json`, and the manifest of both. It is written under another
name, seen to the disk, and renamed; it is removed the other way round.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

from cnnjax import files
from cnnjax.errors import CnnjaxError
from cnnjax.runs import manifest
from cnnjax.runs.arrays import CheckpointError, Flat, digest_arrays, from_bytes, to_pieces

FINAL = "final"
ARRAYS, POSITION = "arrays.safetensors", "position.json"
# What is not a checkpoint yet, and what is none any more. A crash may leave either; both can go.
WRITING, DELETING = "writing-", "deleting-"
_NAME = re.compile(rf"step-(\d+)(?:-epoch-(\d+))?(-{FINAL})?(?:\.(\d+))?", re.ASCII)
_ATTEMPTS = 5


def checkpoint_dirs(directory: pathlib.Path) -> list[pathlib.Path]:
    """Return the checkpoints in a folder, oldest first, damaged ones among them.

    Their order is that of their steps; no clock plays a part.
    """
    try:
        found = [path for path in directory.iterdir() if _NAME.fullmatch(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CheckpointError(f"could not read the checkpoints in {directory}: {_reason(error)}.") from error
    return sorted(found, key=lambda path: _place(path.name))


def is_checkpoint(path: pathlib.Path) -> bool:
    """Return whether a path is a checkpoint's, by its name, whatever is there."""
    return _NAME.fullmatch(path.name) is not None


def is_final(checkpoint: pathlib.Path) -> bool:
    """Return whether the checkpoint was written at the end of a run that ended by itself."""
    return is_checkpoint(checkpoint) and _place(checkpoint.name)[2]


def step_of(checkpoint: pathlib.Path) -> int:
    """Return the steps that had been taken when a checkpoint was made, as its name says."""
    return _place(checkpoint.name)[0]


def save(path: pathlib.Path, arrays: Flat, position: dict[str, Any]) -> pathlib.Path:
    """Write one checkpoint durably: it has its name only once all of it is on the disk.

    Args:
      path: Folder to make. If something else has the name, such as a damaged checkpoint, that stays as it is, and the
        new one goes beside it with `.2`, or `.3`, behind its name, and counts as the newer.
      arrays: Every array by its path.
      position: JSON values.
    Returns:
      Where it is.
    Raises:
      CheckpointError: If it could not be written; nothing of it stays.
    """
    with saving(path):
        return write(path, prepare(path), arrays, position)


def prepare(path: pathlib.Path) -> pathlib.Path:
    """Make the folder that a checkpoint is to be written in; what interrupted saves and removals left goes."""
    files.make_folder(path.parent)
    clean(path.parent)
    aside = path.with_name(WRITING + path.name)
    aside.mkdir()
    return aside


def write(path: pathlib.Path, aside: pathlib.Path, arrays: Flat, position: dict[str, Any]) -> pathlib.Path:
    """Fill the folder that `prepare` made and give it its name; the rest is as for `save`."""
    text = json.dumps(position).encode()
    digests = manifest.write_files(aside, {ARRAYS: to_pieces(arrays), POSITION: [text]})
    target, number = path, 1
    while os.path.lexists(target):
        if _holds(target, digests[ARRAYS]):  # a resumed run that took no step has nothing new to say
            shutil.rmtree(aside)
            return target
        number += 1
        target = path.with_name(f"{path.name}.{number}")
    aside.rename(target)
    try:
        files.sync_folder(target.parent)
    except OSError:  # not known to be on the disk: what is said to have failed must not become the newest
        target.rename(aside)
        raise
    return target


@contextlib.contextmanager
def saving(path: pathlib.Path) -> Iterator[None]:
    """Turn what goes wrong in `prepare` and `write` into a CheckpointError, and clear the half-made away."""
    try:
        yield
    except (OSError, ValueError, TypeError) as error:
        shutil.rmtree(path.with_name(WRITING + path.name), ignore_errors=True)
        raise CheckpointError(
            f"could not save the checkpoint {path}: {_reason(error)}. The earlier checkpoints are untouched."
        ) from error


def load(path: pathlib.Path) -> tuple[Flat, dict[str, Any]]:
    """Read one checkpoint back, every byte of it verified before it is used.

    Args:
      path: Folder of the checkpoint.
    Returns:
      The arrays by their paths and the position.
    Raises:
      CheckpointError: If it is no checkpoint or is damaged.
    """
    try:
        content = manifest.read_files(path)
        position = json.loads(content[POSITION].tobytes())
        step = step_of(path) if is_checkpoint(path) else None
        if step is not None and position.get("step", step) != step:
            raise ValueError(f"it is of step {position['step']}, which is not the one in its name")
        return from_bytes(content[ARRAYS]), position
    except OSError as error:
        raise CheckpointError(f"could not read the checkpoint {path}: {_reason(error)}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the checkpoint {path} is damaged: {_reason(error)}.") from error


def load_newest(directory: pathlib.Path) -> tuple[pathlib.Path, Flat, dict[str, Any], list[str]] | None:
    """Read the newest checkpoint that is whole.

    Args:
      directory: Folder of the checkpoints; a damaged one stays there.
    Returns:
      Its folder, arrays and position, and a line for each newer one that is damaged; None when there is none at all.
    Raises:
      CheckpointError: If there are checkpoints and all of them are damaged.
    """
    damaged: list[str] = []
    for _ in range(_ATTEMPTS):  # a run under way may take away what was just listed
        damaged, vanished = [], False
        for path in reversed(checkpoint_dirs(directory)):
            try:
                return path, *load(path), damaged
            except CheckpointError as error:
                vanished |= not os.path.lexists(path)
                damaged.append(str(error))
        if not vanished:
            break
    if damaged:
        raise CheckpointError(f"{' '.join(damaged)} No checkpoint in {directory} is whole.")
    return None


def digest_directory(path: str | pathlib.Path) -> dict[str, Any]:
    """Return the digest of a workdir's newest checkpoint, or of one checkpoint's folder.

    Args:
      path: A workdir or a checkpoint.
    Returns:
      As `digest_arrays`, with the checkpoint's name under `checkpoint`, and a line for each newer one that is damaged
      under `damaged`.
    Raises:
      CnnjaxError: If there is no checkpoint or it can't be read.
    """
    path = pathlib.Path(path)
    if is_checkpoint(path.absolute()) and not (path / "checkpoints").is_dir():
        return {"checkpoint": path.absolute().name, "damaged": [], **digest_arrays(*load(path))}
    newest = load_newest(path / "checkpoints")
    if newest is None:
        raise CnnjaxError(f"no checkpoint in {path}. Give a run's workdir or one of its checkpoints/step-... folders.")
    checkpoint, arrays, position, damaged = newest
    return {"checkpoint": checkpoint.name, "damaged": damaged, **digest_arrays(arrays, position)}


def remove(path: pathlib.Path) -> None:
    """Remove a checkpoint so that a kill in the middle leaves nothing that looks like one."""
    aside = path.with_name(DELETING + path.name)
    path.rename(aside)
    files.sync_folder(path.parent)
    _delete(aside)


def clean(directory: pathlib.Path) -> None:
    """Remove what interrupted saves and removals left in a folder of checkpoints, as far as that is possible."""
    for prefix in (WRITING, DELETING):
        for path in directory.glob(f"{prefix}step-*"):
            with contextlib.suppress(OSError):
                _delete(path)


def _delete(path: pathlib.Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        shutil.rmtree(path)


def _place(name: str) -> tuple[int, int, bool, int]:
    """Return where a checkpoint stands among the others: its step, epoch, whether it is final, and which try it was."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not the name of a checkpoint")
    return int(match[1]), int(match[2] or 0), match[3] is not None, int(match[4] or 1)


def _holds(path: pathlib.Path, sha256: str) -> bool:
    """Return whether a checkpoint is whole and its arrays have that sha256."""
    with contextlib.suppress(CheckpointError, OSError, ValueError, KeyError):
        load(path)
        return manifest.read_manifest(path)[ARRAYS]["sha256"] == sha256
    return False


def _reason(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()).rstrip(".") or type(error).__name__
