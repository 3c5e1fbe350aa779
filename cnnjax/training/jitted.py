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
        self._function, self._options, self._note, self._check = function, options, note, check_labels
        self._programs: dict[Any, _Program] = {}
        self._key: tuple[Any, Any] = (None, None)

    def __call__(self, state: TrainState, batch: Any) -> Any:
        batch = as_batch(batch)
        labels = batch.label
        if isinstance(state.step, Tracer) or isinstance(batch.image, Tracer):
            return self._plain(state, batch)
        if isinstance(labels, np.ndarray):  # before JAX cuts 64 bits down to 32
            batch = as_int32(batch)
        done: list[list[jax.Array]] = []
        program = None
        try:
            state_, words = self._without_key(state)
            leaves, of_state = jax.tree.flatten(state_)
            rest, of_rest = jax.tree.flatten((batch, words))
            program = self._programs.get((of_state, of_rest))
            if program is None:
                program = _Program(self._function, self._note, of_state, of_rest, self._options)
                program.jitted.trace(leaves, rest)  # the call that follows finds it
                self._programs[of_state, of_rest] = program
            if self._check and _at_hand(labels) and (fault := label_fault(labels, program.num_classes, batch.mask)):
                raise LabelError(f"train_step: {fault}.")
            jitted = program.jitted._choose([*leaves, *rest], None, (leaves, rest), {})
            done.extend(map(jitted, (leaves,), (rest,)))  # in C as a whole
            return program.result(done[0], state.key)
        except KeyboardInterrupt as error:
            if done and program is not None:  # for `fit`
                newest = program.result(done[0], state.key)
                error.newest = newest  # pyright: ignore[reportAttributeAccessIssue]
            raise
        except (TypeError, ValueError, RuntimeError, FlaxError) as error:
            check_state("train_step", state)
            if not isinstance(error, CnnjaxError) and (hint := channels_first(batch.image.shape)):
                hint += " fit(..., channels_first=True) does so itself."
                raise UsageError(f"train_step: the model can't take these images. {hint}") from error
            raise

    def _without_key(self, state: TrainState) -> tuple[TrainState, Any]:
        """Return the state without its key, and the key's words, taken out once, as it stays the same."""
        key = state.key
        if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            return state.replace(key=None), key
        if key is not self._key[0]:
            self._key = key, jax.random.key_data(key)
        return state.replace(key=_Impl(str(jax.random.key_impl(key)))), self._key[1]

    def clear_cache(self) -> None:
        """Forget what was compiled, and what was noted of it."""
        super().clear_cache()
        self._programs.clear()

    def _cache_size(self) -> int:
        return sum(program.jitted._cache_size() for program in self._programs.values())


class _Program:
    """A step for one structure of its arguments: from leaves to leaves, so that no call takes one apart twice."""

    def __init__(self, function: Callable, note: list[int], of_state: Any, of_rest: Any, options: dict[str, Any]):
        self.structure: Any = None
        self.num_classes = 0

        def on_leaves(leaves: list[jax.Array], rest: list[jax.Array]) -> list[jax.Array]:
            note.clear()
            state, (batch, words) = of_state.unflatten(leaves), of_rest.unflatten(rest)
            key = jax.random.wrap_key_data(words, impl=state.key.impl) if isinstance(state.key, _Impl) else words
            found = function(state.replace(key=key), batch)
            found = (found[0].replace(key=None), *found[1:]) if isinstance(found, tuple) else found
            self.num_classes = note[0]
            results, self.structure = jax.tree.flatten(found)
            return results

        self.jitted = memory.MultiHeapJit(functools.wraps(function)(on_leaves), options)

    def result(self, leaves: list[jax.Array], key: jax.Array) -> Any:
        """Return what the step returns, with the state's key in its place."""
        found = self.structure.unflatten(leaves)
        return (found[0].replace(key=key), *found[1:]) if isinstance(found, tuple) else found


class _Impl(struct.PyTreeNode):
    """What a typed key is besides its words."""

    impl: str = struct.field(pytree_node=False)


def _at_hand(labels: Any) -> bool:
    """Return whether labels can be read without waiting for a device."""
    if isinstance(labels, np.ndarray):
        return True
    if isinstance(labels, Tracer) or not isinstance(labels, jax.Array):
        return False
    ready: bool = labels.is_ready()  # pyright: ignore[reportAttributeAccessIssue]  not in JAX's stub
    return ready and len(found := labels.devices()) == 1 and next(iter(found)).platform == "cpu"
