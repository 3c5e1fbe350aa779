"""Several processes that train one model: who speaks, what all are told, what all agree on.

Each process calls these functions in the same order; with one process they do nothing that takes time.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from cnnjax.errors import CnnjaxError, UsageError

Flat = dict[str, np.ndarray]


def is_main() -> bool:
    """Return whether this is the process that writes files and speaks."""
    return jax.process_index() == 0


def on_main(function: Callable[[], Any]) -> Any:
    """Call a function on the main process alone and return its result, a JSON value, on all."""
    if jax.process_count() == 1:
        return function()
    told: dict[str, Any] = {}
    failure: CnnjaxError | None = None
    if is_main():
        try:
            told = {"value": function()}
        except CnnjaxError as error:
            told, failure = {"error": str(error), "usage": isinstance(error, UsageError)}, error
    told = share(told)
    if failure is not None:
        raise failure
    if "error" in told:
        raise (UsageError if told["usage"] else CnnjaxError)(told["error"])
    return told["value"]


def share(value: Any) -> Any:
    """Return the main process's JSON value on every process."""
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8) if is_main() else np.zeros(0, np.uint8)
    size = int(_broadcast(np.array([len(text)], np.int32))[0])
    return json.loads(_broadcast(np.resize(text, size)).tobytes())


def share_arrays(arrays: Mapping[str, np.ndarray]) -> Flat:
    """Return the main process's arrays on every process."""
    if jax.process_count() == 1:
        return dict(arrays)
    kinds = share([[name, value.dtype.name, list(value.shape)] for name, value in arrays.items()])
    shared = {}
    for name, dtype, shape in kinds:
        own = np.asarray(arrays[name]) if is_main() else np.zeros(shape, np.dtype(dtype))
        # As bytes: JAX would turn 64-bit values into 32-bit ones.
        words = _broadcast(np.ascontiguousarray(own).reshape(-1).view(np.uint8))
        shared[name] = words.view(np.dtype(dtype)).reshape(shape)
    return shared


def gather(values: np.ndarray) -> np.ndarray:
    """Return every process's values, one row each, in the order of the processes."""
    if jax.process_count() == 1:
        return np.asarray(values)[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(values))


def _broadcast(value: np.ndarray) -> np.ndarray:
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(value))
