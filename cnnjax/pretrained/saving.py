"""Variables to a safetensors file, in cnnjax's names or in a publisher's."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import linen as nn
from flax import traverse_util

from cnnjax import files, safetensors
from cnnjax.errors import UsageError, unknown
from cnnjax.pretrained.naming import Naming, source_name, translate
from cnnjax.pretrained.rules import namings_for
from cnnjax.pretrained.transforms import to_channels_first

# The publishers whose own code loads what is written in their names, as the tests show.
_PUBLISHERS = ("torchvision",)
_COLLECTIONS = ("params", "batch_stats")


def save(
    variables: Mapping[str, Any],
    path: str | pathlib.Path,
    *,
    names: str = "cnnjax",
    model: nn.Module | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write parameters and batch statistics to a safetensors file, durably: it is there whole or not at all.

    Args:
      variables: `{"params": ..., "batch_stats": ...}`; other collections are not written.
      path: The file, customarily `*.safetensors`.
      names: `cnnjax`, or `torchvision` for an architecture that it has too: then the arrays have its names and
        layout, and torch loads them with `load_state_dict(safetensors.torch.load_file(path))`.
      model: The model that the variables are of; needed for names other than cnnjax's.
      metadata: Texts for the file's header.
    Raises:
      UsageError: If there are no such names for the model, or the path is a folder's, a device's or has another ending.
      CnnjaxError: If the file can't be written.
    Example: `save(variables, "net.safetensors", names="torchvision", model=model)`
    """
    check_path(path)
    kept = {name: variables[name] for name in _COLLECTIONS if name in variables}
    flat: dict[str, Any] = traverse_util.flatten_dict(kept, sep="/")
    if not flat:
        raise UsageError("save: expected variables with params, {'params': ..., 'batch_stats': ...}.")
    if names != "cnnjax":
        if model is None:
            raise UsageError(f"save: expected model= beside names={names!r}, to know its architecture.")
        known = {n.name: n for n in namings_for(model) if n.name in _PUBLISHERS}
        if names not in known:
            raise unknown("names", names, [*known, "cnnjax"])
        flat = _renamed(flat, known[names], model)
    arrays = {name: np.asarray(value) for name, value in flat.items()}
    pieces = safetensors.to_pieces(arrays, metadata={"format": "pt", **(metadata or {})})
    try:
        files.write_bytes(path, pieces)
    except ValueError as error:
        raise UsageError(f"save: {error}.") from None


def check_path(path: str | pathlib.Path) -> None:
    """Refuse what no safetensors file can be written to: a folder, a device, a name that promises another format."""
    path = pathlib.Path(path)
    if not path.name or path.is_dir():
        raise UsageError(f"save: expected the name of a file to write, {path} is a folder.")
    if path.exists() and not path.is_file():
        raise UsageError(f"save: expected the name of a file to write, {path} is a device or a pipe.")
    if path.suffix.lower() not in ("", ".safetensors"):
        raise UsageError(f"save: {path}: expected another ending, .safetensors, since that is what is written.")


def _renamed(flat: Mapping[str, Any], naming: Naming, model: nn.Module) -> dict[str, np.ndarray]:
    """Return the arrays under a publisher's names and in its layout, with the counters its own files have."""
    rules, found = naming.rules_for(model), {}
    for path, value in flat.items():
        name = source_name(path, rules, naming.layout)
        if name is None or name in found:
            raise UsageError(f"save: {naming.name} has no name for {path} of {type(model).__name__}.")
        array = np.asarray(value)
        if path.endswith("/kernel"):
            flatten = next((rule.flatten for rule in rules if _leads_to(rule.targets, path)), None)
            array = to_channels_first(array.shape, flatten=flatten).undo(array)
        elif name.endswith(".layer_scale"):
            array = array.reshape(-1, 1, 1)
        found[name] = array
        if name.endswith(".running_var"):
            found[name.removesuffix("running_var") + "num_batches_tracked"] = np.zeros((), np.int64)
    return found


def _leads_to(targets: tuple[str, ...], path: str) -> bool:
    module = path.partition("/")[2].rpartition("/")[0]
    return any(translate(target, target, module) is not None for target in targets)
