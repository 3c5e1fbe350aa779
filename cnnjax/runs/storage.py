"""Checkpoints on disk: Orbax holds the arrays, JSON the position; verified when they are read."""

import hashlib
import pathlib
import shutil
import time
from typing import Any

import numpy as np

from cnnjax.errors import CnnjaxError

Flat = dict[str, np.ndarray]
FINAL = "final"


class CheckpointError(CnnjaxError):
    """A checkpoint could not be written or read."""


def checkpoint_dirs(directory: pathlib.Path) -> list[pathlib.Path]:
    """Return the finished checkpoints in a folder, oldest first; what a killed save left behind is not among them."""
    if not directory.is_dir():
        return []
    return sorted(p for p in directory.iterdir() if p.name.startswith("step-") and "orbax" not in p.name)


def newest_checkpoint(directory: pathlib.Path) -> pathlib.Path | None:
    """Return the newest finished checkpoint in a folder, or None."""
    return next(iter(reversed(checkpoint_dirs(directory))), None)


def is_final(checkpoint: pathlib.Path) -> bool:
    """Return whether the checkpoint was written at the end of a run that ended by itself."""
    return checkpoint.name.endswith(FINAL)


def save(path: pathlib.Path, arrays: Flat, position: dict[str, Any]) -> None:
    """Write one checkpoint: under another name first, then renamed, so that a finished one is whole.

    Args:
      path: Folder to make.
      arrays: Every array by its path.
      position: JSON values.
    Raises:
      CheckpointError: If it could not be written; nothing of it stays.
    """
    if path.exists():  # A resumed run that took no step has nothing new to say.
        return
    import orbax.checkpoint as ocp  # takes most of a second, which only runs that save should pay

    clean(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            checkpointer.save(
                path.absolute(),
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardSave(arrays),
                    position=ocp.args.JsonSave({**position, "sha256": _sha256(arrays)}),
                ),
            )
    except (OSError, ValueError, RuntimeError) as error:
        clean(path.parent)
        reason = _reason(error)
        raise CheckpointError(
            f"could not save the checkpoint {path}: {reason}. The earlier checkpoints are untouched."
        ) from error


def load(path: pathlib.Path) -> tuple[Flat, dict[str, Any]]:
    """Read one checkpoint back.

    Args:
      path: Folder of the checkpoint.
    Returns:
      The arrays by their paths and the position.
    Raises:
      CheckpointError: If it is no checkpoint or is damaged.
    """
    import orbax.checkpoint as ocp

    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            restored = checkpointer.restore(
                path.absolute(),
                args=ocp.args.Composite(arrays=ocp.args.StandardRestore(), position=ocp.args.JsonRestore()),
            )
        arrays = {name: np.asarray(value) for name, value in restored["arrays"].items()}
        position = dict(restored["position"])
    except Exception as error:  # whatever Orbax and its storage make of damaged files
        raise CheckpointError(f"could not read the checkpoint {path}: {_reason(error)}.") from error
    if position.pop("sha256", None) != _sha256(arrays):  # Orbax itself does not check what it reads
        raise CheckpointError(f"the checkpoint {path} is damaged: its content is not what was saved.")
    return arrays, position


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
    for path in reversed(checkpoint_dirs(directory)):
        try:
            return path, *load(path), damaged
        except CheckpointError as error:
            damaged.append(str(error))
    if damaged:
        raise CheckpointError(" ".join(damaged))
    return None


def clean(directory: pathlib.Path) -> None:
    """Remove what interrupted saves left in a folder of checkpoints."""
    # Threads of a save that has just failed may still be writing there; what outlasts a second goes the next time.
    for _ in range(20):
        left = list(directory.glob("step-*.orbax-checkpoint-tmp*"))
        if not left:
            return
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.05)


def _sha256(arrays: Flat) -> dict[str, str]:
    return {name: digest_array(value) for name, value in sorted(arrays.items())}


def digest_array(value: np.ndarray) -> str:
    """Return the sha256 of an array's dtype, shape and bytes, the same on every machine."""
    header = f"{value.dtype.name}{list(value.shape)}".encode()
    ordered = np.ascontiguousarray(value)
    if ordered.dtype.byteorder == ">":
        ordered = ordered.astype(ordered.dtype.newbyteorder("<"))
    return hashlib.sha256(header + ordered.tobytes()).hexdigest()


def _reason(error: BaseException) -> str:
    """Return the part of a storage library's message that a person can use: its last clause."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError):
        return "a part of it is missing"
    return text.rsplit(": ", 1)[-1].split(" [os_error", 1)[0].rstrip(".")
