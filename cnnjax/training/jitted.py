"""`jit` for steps: arguments are looked at first, and no Ctrl-C loses a state."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from flax.errors import FlaxError
from jax.core import Tracer

from cnnjax.batch import Batch
from cnnjax.errors import CnnjaxError, UsageError, channels_first
from cnnjax.ops.cpu import memory
from cnnjax.training.inputs import as_batch, as_int32, check_state
from cnnjax.training.losses import LabelError, label_fault
from cnnjax.training.state import TrainState


class CheckedJit(memory.MultiHeapJit):
    """A jitted step that looks at what it is given first, and says in one sentence what is wrong with it.

    Labels are looked at where that waits for nothing: those of NumPy, and those that lie ready on the CPU. Elsewhere
    the step gives them a loss of NaN, and `fit` says why.

    The compiled program takes the key's words and returns bare leaves. Keys and structures are made by Python code, in
    which a Ctrl-C would part a state, whose memory the step takes, from its successor.
    """

    def __init__(self, function: Callable, note: list[int], *, check_labels: bool = True, **options: Any):
        super().__init__(function, options)
        self._check, self._structures, self._key = check_labels, {}, (None, None)

        def leaves_of(state: TrainState, batch: Batch, words: jax.Array) -> list[jax.Array]:
            given = jax.tree.structure(((state, batch, words), {}))
            note.clear()
            key = jax.random.wrap_key_data(words, impl=state.key.impl) if isinstance(state.key, _Impl) else words
            found = function(state.replace(key=key), batch)
            leaves, structure = jax.tree.flatten((found[0].replace(key=None), *found[1:]) if _is_pair(found) else found)
            self._structures[given] = structure, note[0]
            return leaves

        self._leaves = memory.MultiHeapJit(functools.wraps(function)(leaves_of), options)

    def __call__(self, state: TrainState, batch: Any) -> Any:
        batch = as_batch(batch)
        labels = batch.label
        if isinstance(state.step, Tracer) or isinstance(batch.image, Tracer):
            return self._plain(state, batch)
        if isinstance(labels, np.ndarray):  # before JAX cuts 64 bits down to 32
            batch = as_int32(batch)
        done: list[list[jax.Array]] = []
        try:
            arguments = self._without_key(state, batch)
            leaves, given = jax.tree.flatten((arguments, {}))
            if given not in self._structures:
                self._leaves.trace(*arguments)  # the call that follows finds it
            structure, num_classes = self._structures[given]
            if self._check and _at_hand(labels) and (fault := label_fault(labels, num_classes, batch.mask)):
                raise LabelError(f"train_step: {fault}.")
            jitted = self._leaves._choose(leaves, given, arguments, {})
            done.extend(map(jitted, *((argument,) for argument in arguments)))  # in C as a whole
            return _with_key(structure.unflatten(done[0]), state.key)
        except KeyboardInterrupt as error:
            if done:  # for `fit`
                newest = _with_key(structure.unflatten(done[0]), state.key)
                error.newest = newest  # pyright: ignore[reportAttributeAccessIssue]
            raise
        except (TypeError, ValueError, RuntimeError, FlaxError) as error:
            check_state("train_step", state)
            if not isinstance(error, CnnjaxError) and (hint := channels_first(batch.image.shape)):
                raise UsageError(f"train_step: the model can't take these images. {hint}") from error
            raise

    def _without_key(self, state: TrainState, batch: Batch) -> tuple[TrainState, Batch, Any]:
        """Return the arguments of the compiled program; the key's words are taken out once, as it stays the same."""
        key = state.key
        if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            return state.replace(key=None), batch, key
        if key is not self._key[0]:
            self._key = key, jax.random.key_data(key)
        return state.replace(key=_Impl(str(jax.random.key_impl(key)))), batch, self._key[1]

    def clear_cache(self) -> None:
        """Forget what was compiled, and what was noted of it."""
        super().clear_cache()
        self._leaves.clear_cache()
        self._structures.clear()

    def _cache_size(self) -> int:
        return self._leaves._cache_size()


class _Impl(struct.PyTreeNode):
    """What a typed key is besides its words."""

    impl: str = struct.field(pytree_node=False)


def _is_pair(found: Any) -> bool:
    return isinstance(found, tuple)


def _with_key(found: Any, key: jax.Array) -> Any:
    return (found[0].replace(key=key), *found[1:]) if _is_pair(found) else found


def _at_hand(labels: Any) -> bool:
    """Return whether labels can be read without waiting for a device."""
    if isinstance(labels, np.ndarray):
        return True
    if isinstance(labels, Tracer) or not isinstance(labels, jax.Array):
        return False
    ready: bool = labels.is_ready()  # pyright: ignore[reportAttributeAccessIssue]  not in JAX's stub
    return ready and len(found := labels.devices()) == 1 and next(iter(found)).platform == "cpu"
