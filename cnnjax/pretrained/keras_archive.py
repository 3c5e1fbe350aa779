"""Keras's `.keras` archives: `.weights.h5` in a zip file, beside a configuration that is read as data."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from cnnjax.pretrained.keras_hdf5 import LayerConfig, read_counted
from cnnjax.pretrained.keras_names import counted, snake_case
from cnnjax.pretrained.tensors import MAX_NAME, SourceFile, WeightsError, parse_json
from cnnjax.pretrained.zip_files import Member

_WEIGHTS, _CONFIG = "model.weights.h5", "config.json"
_LARGEST_CONFIG = 32 << 20
_DEEPEST = 32


def open_keras_archive(path: pathlib.Path, members: Mapping[str, Member]) -> SourceFile:
    """Return the tensors of a `.keras` archive.

    The configuration is only asked for the names of the layers; no model is made of it.

    Args:
      path: The archive.
      members: What is in it, from `read_zip`.
    Raises:
      WeightsError: If it is damaged or not whole.
    """
    if missing := {_WEIGHTS, _CONFIG} - members.keys():
        raise WeightsError(f"it is no whole .keras file: {min(missing)} is not in it.")
    weights, config = members[_WEIGHTS], members[_CONFIG]
    if config.size > _LARGEST_CONFIG:
        raise WeightsError(f"its configuration of {config.size:,} bytes is larger than any net's.")
    configs = dict(_layers(parse_json(config.read(), "its configuration"), (), 0))
    if weights.deflated:
        tensors, notes = read_counted(weights.read(), None, configs)
    else:
        weights.check()
        tensors, notes = read_counted(path, (weights.offset, weights.size), configs)
    return SourceFile(path, "keras", tensors, notes)


def _layers(config: Any, place: tuple[str, ...], depth: int) -> Iterator[tuple[tuple[str, ...], LayerConfig]]:
    """Yield what the configuration says of each layer, with the path that Keras gives it in the weights."""
    inner = config.get("config") if isinstance(config, dict) else None
    layers = inner.get("layers") if isinstance(inner, dict) else None
    if not isinstance(layers, list):
        return
    if depth > _DEEPEST:
        raise WeightsError(f"its configuration nests models more than {_DEEPEST} deep.")
    used: dict[str, int] = {}
    for layer in layers:
        kind, own = (layer.get("class_name"), layer.get("config")) if isinstance(layer, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(own, dict) or not isinstance(own.get("name"), str):
            raise WeightsError("its configuration has a layer without a class or a name.")
        if max(len(kind), len(own["name"])) > MAX_NAME:
            raise WeightsError(f"its configuration has a name of more than {MAX_NAME} characters.")
        here = (*place, counted(snake_case(kind), used))
        scale = own.get("scale")
        normalisation = isinstance(scale, bool) and isinstance(own.get("center"), bool)
        yield here, LayerConfig(own["name"], bool(own.get("center", True)), scale if normalisation else None)
        yield from _layers(layer, here, depth + 1)
