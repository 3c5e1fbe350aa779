"""Checkpoints of a run: when they are made, and from a state to arrays and back."""

import math
import pathlib
import shutil
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

from cnnjax.runs.storage import FINAL, CheckpointError, Flat, checkpoint_dirs, save
from cnnjax.training import Callback, Loop, TrainState


class Checkpoints(Callback):
    """Save the run so that it can go on exactly: between epochs, every so many steps, and when it ends.

    Args:
      directory: Folder of the checkpoints.
      every_steps: Save within epochs too, each time that many steps have been taken; None for not.
      every_seconds: Between epochs, save only when the last checkpoint is at least that old.
      keep: How many of the newest to keep.
    """

    def __init__(
        self, directory: pathlib.Path, *, every_steps: int | None = None, every_seconds: float = 10.0, keep: int = 2
    ):
        self.directory, self.every_steps, self.every_seconds, self.keep = directory, every_steps, every_seconds, keep
        self.saved_at = -math.inf  # the first epoch is saved, however short

    def on_step(self, loop: Loop) -> None:
        if self.every_steps and loop.step % self.every_steps == 0 and not loop.interrupted:
            self._save(loop)

    def on_epoch(self, loop: Loop) -> None:
        ends_now = loop.stopped or loop.epoch == loop.epochs
        if not ends_now and time.monotonic() - self.saved_at >= self.every_seconds:
            self._save(loop)

    def on_end(self, loop: Loop) -> None:
        self._save(loop, final=not loop.interrupted)

    def _save(self, loop: Loop, *, final: bool = False) -> None:
        name = f"step-{loop.step:09d}-epoch-{loop.epoch:05d}" + (f"-{FINAL}" if final else "")
        arrays = flatten_state(loop.state) | _flatten("callbacks", loop.arrays())
        save(self.directory / name, arrays, loop.position())
        for old in checkpoint_dirs(self.directory)[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        self.saved_at = time.monotonic()


def flatten_state(state: TrainState) -> Flat:
    """Return every array of a state by its path, such as `params/c1/kernel`; the PRNG key as its words."""
    if jnp.issubdtype(state.key.dtype, jax.dtypes.prng_key):
        state = state.replace(key=jax.random.key_data(state.key))
    return _flatten("", serialization.to_state_dict(state))


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
    typed = jnp.issubdtype(state.key.dtype, jax.dtypes.prng_key)
    template = state.replace(key=jax.random.key_data(state.key)) if typed else state
    own = {name: value for name, value in arrays.items() if not name.startswith("callbacks/")}
    restored = _restore(template, own)
    return restored.replace(key=jax.random.wrap_key_data(restored.key)) if typed else restored


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


def _restore(template: Any, found: Flat) -> Any:
    tree = serialization.to_state_dict(template)
    expected = _flatten("", tree)
    for name in sorted(expected.keys() | found.keys()):
        a, b = (f"{d[name].dtype}{list(d[name].shape)}" if name in d else "nothing" for d in (expected, found))
        if a != b:
            raise CheckpointError(f"the checkpoint does not fit the model: {name} is {b} in it, expected {a}.")
    restored = serialization.from_state_dict(template, _unflatten(found, tree))
    # Copies on the device: a step will give their memory away, and NumPy must not keep a view of it.
    return jax.tree.map(jnp.array, restored)


def callback_arrays(arrays: Flat) -> dict[str, Any]:
    """Return the arrays that callbacks saved, as `Loop.restore` takes them."""
    tree: dict[str, Any] = {}
    for name, value in arrays.items():
        if name.startswith("callbacks/"):
            *parents, leaf = name.split("/")[1:]
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
    return tree


def _flatten(prefix: str, tree: Any) -> Flat:
    if isinstance(tree, dict):
        start = f"{prefix}/" if prefix else ""
        return {name: leaf for key, value in tree.items() for name, leaf in _flatten(f"{start}{key}", value).items()}
    return {prefix: np.array(tree)}


def _unflatten(flat: Flat, like: Any, prefix: str = "") -> Any:
    """Return the nested dict of the shape of `like`, empty nodes included, with the leaves of `flat`."""
    if isinstance(like, dict):
        start = f"{prefix}/" if prefix else ""
        return {key: _unflatten(flat, value, f"{start}{key}") for key, value in like.items()}
    return flat[prefix]
