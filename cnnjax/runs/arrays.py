"""From a state to named arrays on the host, to the bytes of a safetensors file, and back.

A checkpoint's bytes are known to be those that were written before they are taken apart here, so there is no defence
against hostile files; `cnnjax.pretrained` has a reader for those.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import serialization

from cnnjax import safetensors
from cnnjax.errors import CnnjaxError
from cnnjax.training import TrainState

Flat = dict[str, np.ndarray]

# What a state may hold beside the types that published weights have.
_DTYPES = {
    **safetensors.DTYPES,
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "C64": np.dtype(np.complex64),
}
_CALLBACKS = "callbacks"
# Where the data are, what early stopping knows and what was found are a run's state; how long it took is not.
_TIMES = ("seconds", "images_per_second")


class CheckpointError(CnnjaxError):
    """A checkpoint could not be written or read."""


def to_pieces(arrays: Flat) -> Iterator[bytes | memoryview]:
    """Give the parts of the file that holds some arrays, see `safetensors.to_pieces`."""
    return safetensors.to_pieces({name: little_endian(value) for name, value in arrays.items()}, dtypes=_DTYPES)


def from_bytes(content: np.ndarray) -> Flat:
    """Return the arrays of a file, as views of its content."""
    length = int.from_bytes(content[:8].tobytes(), "little")
    header = json.loads(content[8 : 8 + length].tobytes())
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape, dtype = tuple(entry["shape"]), _DTYPES[entry["dtype"]]
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        arrays[name] = content[begin:end].view(dtype).reshape(shape)
    return arrays


def little_endian(array: np.ndarray) -> np.ndarray:
    """Return the array in one piece, in C order, its numbers' lowest byte first."""
    array = np.ascontiguousarray(array).reshape(array.shape)  # which makes a scalar a vector
    return array.astype(array.dtype.newbyteorder("<")) if array.dtype.byteorder == ">" else array


def flatten_state(state: TrainState) -> Flat:
    """Return a copy on the host of every array of a state, by its path, such as `params/c1/kernel`.

    Args:
      state: Whatever fields it has; one that is None has no arrays. PRNG keys are given as their words.
    Returns:
      Arrays that share no memory with the state: a step may give that away.
    """
    return flatten(serialization.to_state_dict(_without_keys(state)))


def flatten_callbacks(arrays: dict[str, Any]) -> Flat:
    """Return copies of the callbacks' arrays, as `flatten_state` does; `callback_arrays` takes them out again."""
    return flatten(_without_keys(arrays), _CALLBACKS)


def restore_state(state: TrainState, arrays: Flat) -> TrainState:
    """Return the state with its arrays replaced by those of a checkpoint.

    Args:
      state: A state of the same model and optimizer.
      arrays: What `flatten_state` gave, or more.
    Returns:
      The restored state.
    Raises:
      CheckpointError: If an array is missing, left over or of another shape or dtype.
    """
    return _restore(state, {name: value for name, value in arrays.items() if name.split("/")[0] != _CALLBACKS})


def restore_variables(state: TrainState, arrays: Flat) -> TrainState:
    """Return the state with its parameters and statistics replaced by those of a checkpoint, and nothing else.

    Args:
      state: A state of the same model, whatever its optimizer.
      arrays: What `flatten_state` gave, or more.
    Raises:
      CheckpointError: If an array is missing, left over or of another shape or dtype.
    """
    template = {"params": state.params, "batch_stats": state.batch_stats}
    own = {name: value for name, value in arrays.items() if name.split("/")[0] in template}
    return state.replace(**_restore(template, own))


def callback_arrays(arrays: Flat) -> dict[str, Any]:
    """Return the arrays that callbacks saved, as `Loop.restore` takes them."""
    tree: dict[str, Any] = {}
    for name, value in arrays.items():
        if name.startswith(f"{_CALLBACKS}/"):
            *parents, leaf = name.split("/")[1:]
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
    return tree


def flatten(tree: Any, prefix: str = "") -> Flat:
    """Return a copy of every leaf of a nested dict by its path; None and empty dicts have none."""
    flat: Flat = {}
    for name, leaf in _leaves(tree, prefix):
        if name in flat:
            raise CheckpointError(
                f"two arrays have the one path {name}. Rename one: a slash in a name ends its parent."
            )
        flat[name] = np.array(leaf)  # and not asarray: its view would keep the memory from being donated
    return flat


def _leaves(tree: Any, prefix: str) -> list[tuple[str, Any]]:
    if isinstance(tree, dict):
        start = f"{prefix}/" if prefix else ""
        return [pair for key, value in tree.items() for pair in _leaves(value, f"{start}{key}")]
    return [] if tree is None else [(prefix, tree)]


def _restore(template: Any, found: Flat) -> Any:
    words = _without_keys(template)
    tree = serialization.to_state_dict(words)
    expected = {name: _described(leaf) for name, leaf in _leaves(tree, "")}
    described = {name: _described(value) for name, value in found.items()}
    for name in sorted(expected.keys() | found.keys()):
        a, b = expected.get(name, "nothing"), described.get(name, "nothing")
        if a != b:
            raise CheckpointError(f"the checkpoint does not fit the model: {name} is {b} in it, expected {a}.")
    restored = serialization.from_state_dict(words, _unflatten(found, tree))
    # Copies on the device: a step will give their memory away, and NumPy must not keep a view of it.
    return jax.tree.map(_like, template, restored)


def _like(template: Any, value: Any) -> jax.Array:
    if _is_key(template):
        return jax.random.wrap_key_data(jnp.array(value), impl=jax.random.key_impl(template))
    return jnp.array(value)


def _described(leaf: Any) -> str:
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"


def _unflatten(flat: Flat, like: Any, prefix: str = "") -> Any:
    """Return the nested dict of the shape of `like`, empty nodes included, with the leaves of `flat`."""
    if isinstance(like, dict):
        start = f"{prefix}/" if prefix else ""
        return {key: _unflatten(flat, value, f"{start}{key}") for key, value in like.items()}
    return None if like is None else flat[prefix]


def _without_keys(tree: Any) -> Any:
    """Return the tree with the words of each PRNG key in its place."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


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


def _digest_array(value: Any) -> str:
    """Return the sha256 of an array's dtype, shape and bytes, the same on every machine."""
    header = f"{value.dtype.name}{list(value.shape)}".encode()
    return hashlib.sha256(header + little_endian(value).tobytes()).hexdigest()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_times(part) for name, part in value.items() if name not in _TIMES}
    return [_without_times(part) for part in value] if isinstance(value, list) else value
