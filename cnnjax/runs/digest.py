"""The digest of a checkpoint: equal exactly when every bit that a resumed run would read is equal."""

import hashlib
import json
import pathlib
from typing import Any

from cnnjax.errors import CnnjaxError
from cnnjax.runs.storage import Flat, digest_array, load, load_newest

# Where the data are is part of a run's state; how long it took, and what it has told, is not.
_POSITION = ("epoch", "batch", "metrics", "callbacks")


def digest_arrays(arrays: Flat, position: dict[str, Any]) -> dict[str, Any]:
    """Return the sha256 of every leaf and of all together.

    Args:
      arrays: Arrays by their paths.
      position: A run's position, of which the parts that decide how it goes on count.
    Returns:
      `{"leaves": {path: sha256}, "digest": sha256}`; dtype, shape and every byte count.
    """
    leaves = {name: digest_array(value) for name, value in arrays.items()}
    for name in _POSITION:
        text = json.dumps(position.get(name), sort_keys=True)
        leaves[f"position/{name}"] = hashlib.sha256(text.encode()).hexdigest()
    leaves = dict(sorted(leaves.items()))
    total = hashlib.sha256("".join(f"{name}={value}\n" for name, value in leaves.items()).encode())
    return {"leaves": leaves, "digest": total.hexdigest()}


def digest_directory(path: str | pathlib.Path) -> dict[str, Any]:
    """Return the digest of a workdir's newest checkpoint, or of one checkpoint's folder.

    Args:
      path: A workdir or a checkpoint.
    Returns:
      As `digest_arrays`, with the checkpoint's name under `checkpoint`.
    Raises:
      CnnjaxError: If there is no checkpoint or it can't be read.
    """
    path = pathlib.Path(path)
    if path.name.startswith("step-") and path.is_dir():
        return {"checkpoint": path.name, **digest_arrays(*load(path))}
    newest = load_newest(path / "checkpoints")
    if newest is None:
        raise CnnjaxError(f"no checkpoint in {path}. Give a run's workdir or one of its checkpoints/step-... folders.")
    checkpoint, arrays, position, damaged = newest
    return {"checkpoint": checkpoint.name, "damaged": damaged, **digest_arrays(arrays, position)}
