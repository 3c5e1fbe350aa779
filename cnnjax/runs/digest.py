"""The digest of a checkpoint: equal exactly when every bit that a resumed run would read is equal."""

import hashlib
import json
import pathlib
from typing import Any

from cnnjax.errors import CnnjaxError
from cnnjax.runs.arrays import Flat, little_endian
from cnnjax.runs.storage import is_checkpoint, load, load_newest

# Where the data are, what early stopping knows and what was found are a run's state; how long it took is not.
_TIMES = ("seconds", "images_per_second")


def digest_arrays(arrays: Flat, position: dict[str, Any]) -> dict[str, Any]:
    """Return the sha256 of every leaf and of all together.

    Args:
      arrays: Arrays by their paths.
      position: A run's position; all of it counts but the times, in its history too.
    Returns:
      `{"leaves": {path: sha256}, "digest": sha256}`; dtype, shape and every byte count.
    """
    leaves = {name: _digest_array(value) for name, value in arrays.items()}
    for name, value in _without_times(position).items():
        text = json.dumps(value, sort_keys=True)
        leaves[f"position/{name}"] = hashlib.sha256(text.encode()).hexdigest()
    leaves = dict(sorted(leaves.items()))
    total = hashlib.sha256("".join(f"{name}={value}\n" for name, value in leaves.items()).encode())
    return {"leaves": leaves, "digest": total.hexdigest()}


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


def _digest_array(value: Any) -> str:
    """Return the sha256 of an array's dtype, shape and bytes, the same on every machine."""
    header = f"{value.dtype.name}{list(value.shape)}".encode()
    return hashlib.sha256(header + little_endian(value).tobytes()).hexdigest()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_times(part) for name, part in value.items() if name not in _TIMES}
    return [_without_times(part) for part in value] if isinstance(value, list) else value
