"""`jit` for steps on a CPU, in several small heaps whose memory malloc can hand out again.

XLA keeps all intermediate arrays of a program in one heap and asks malloc for it at every call. glibc takes what
exceeds 32 MB from the system anew, page by page, which is a tenth to a sixth of a training step (`bench/README.md`).
Several smaller heaps it can keep, and does so once it is told not to give them back: `keep_freed_memory`.
"""

import ctypes
import functools
import math
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer

from cnnjax import jax_versions, jaxpr
from cnnjax.ops.dispatch import cpu_mode

_HEAP_BYTES = (32 << 20) - (1 << 16)  # two fill one of the pieces that malloc's arenas are made of
_OPTIONS = {jax_versions.HEAP_SIZE: _HEAP_BYTES}
_MARGIN = 1.25  # what XLA may add to an array, such as padding; it prints a warning for each that fits no heap

# glibc's own limits: what is larger than the first it cannot keep, and an arena beside the main one grows in pieces of
# the second, each given back when it is empty unless so much is to be kept on top.
_LARGEST_KEPT, _ARENA_PIECE, _MOST_KEPT = 32 << 20, 64 << 20, 1 << 30
_THRESHOLDS = {  # mallopt's parameter, as malloc.h numbers them, and its value, by the name that the environment uses
    "MMAP_THRESHOLD": (-3, _LARGEST_KEPT),
    "TRIM_THRESHOLD": (-1, _MOST_KEPT),
    "TOP_PAD": (-2, _ARENA_PIECE),
}


def jit(function: Callable, **options: Any) -> "MultiHeapJit":
    """Return `jax.jit(function, **options)`, compiled for small heaps where it runs on a CPU and its arrays fit them.

    It is `jax.jit` and nothing more within another transformation, on accelerators, under `CNNJAX_CPU_OPS=off`, where
    `XLA_FLAGS` says something of heaps, and where compiled programs are to be kept in a cache, since XLA cannot write
    one of several heaps. So is what its `lower` and `trace` return.

    Example:
      >>> jit(lambda x: x + 1)(1.0).item()
      2.0
    """
    return MultiHeapJit(function, options)


class MultiHeapJit:
    """Choose between two compilations of a function by its arguments; see `jit`."""

    def __init__(self, function: Callable, options: dict[str, Any]):
        self._plain: Any = jax.jit(function, **options)
        self._small: Any = jax.jit(function, compiler_options=_OPTIONS, **options)
        self._fits: dict[Any, bool] = {}
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._chosen(args, kwargs)(*args, **kwargs)

    def clear_cache(self) -> None:
        """Forget both compilations and what was decided."""
        for jitted in (self._plain, self._small):
            jitted.clear_cache()
        self._fits.clear()

    def __getattr__(self, name: str) -> Any:
        # The rest of what a jitted function has, such as `lower` and `eval_shape`.
        if name.startswith("__") or name == "_plain":
            raise AttributeError(name)
        return getattr(self._plain, name)

    def _chosen(self, args: tuple, kwargs: dict[str, Any]) -> Callable:
        return self._choose(*jax.tree.flatten((args, kwargs)), args, kwargs)

    def _choose(self, leaves: list, structure: Any, args: tuple, kwargs: dict[str, Any]) -> Callable:
        # At every call, for hundreds of leaves, so nothing is done for each that can be done for all of a type.
        if any(issubclass(kind, Tracer) for kind in set(map(type, leaves))) or not _allowed():
            return self._plain
        key = structure, _platform(leaves), tuple(map(_abstract, leaves))
        fits = self._fits.get(key)
        if fits is None:
            # The trace is not lost: the call that follows finds it.
            fits = self._fits[key] = key[1] == "cpu" and _fit(self._plain.trace(*args, **kwargs).jaxpr)
        return self._small if fits else self._plain


@functools.cache
def keep_freed_memory() -> bool:
    """Have glibc's malloc keep what is freed for the next step, for the whole process; return whether it does.

    Steps on a CPU then take a tenth to a sixth less time. The command line asks for it when it trains; a program of
    one's own calls this once. What threads free is kept in blocks of up to 32 MB: of the main thread's up to 1 GB, of
    each other's as much as it once held; `ctypes.CDLL(None).malloc_trim(0)` gives back what is free. Nothing is done
    where steps aren't compiled for small heaps (see `jit`), or the environment has a threshold of malloc's.
    """
    if jax.default_backend() != "cpu" or not _allowed():
        return False
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    spoken_for = any(name.lower() in tunables or f"MALLOC_{name}_" in os.environ for name in _THRESHOLDS)
    if spoken_for or sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    # All three, since each by itself stops glibc from raising the others as it goes.
    return mallopt is not None and all(mallopt(*setting) for setting in _THRESHOLDS.values())


def _allowed() -> bool:
    spoken_for = cpu_mode() == "off" or jax_versions.HEAP_SIZE in os.environ.get("XLA_FLAGS", "")
    cached = jax_versions.compile_cache() is not None
    return not spoken_for and not jax_versions.without_jit() and not cached and jax_versions.takes_options(**_OPTIONS)


def _platform(leaves: list) -> str:
    """Return where a call with these arguments runs: where the first array lies, since all have to lie together."""
    first = next((leaf for leaf in leaves if isinstance(leaf, jax.Array)), None)
    return jax.default_backend() if first is None else next(iter(first.devices())).platform


def _abstract(leaf: Any) -> Any:
    """Return a leaf's shape and type, in the form that is at hand."""
    try:
        return leaf.aval
    except AttributeError:
        return getattr(leaf, "shape", ()), getattr(leaf, "dtype", type(leaf))


def _fit(closed: Any) -> bool:
    """Say whether every array that a function takes or makes fits a heap."""
    avals = [var.aval for step in jaxpr.walk(closed) for var in step.eqn.outvars]
    return _MARGIN * max(map(_bytes, [*closed.in_avals, *avals]), default=0) <= _HEAP_BYTES


def _bytes(aval: Any) -> int:
    size, dtype = math.prod(getattr(aval, "shape", ())), getattr(aval, "dtype", None)
    return size * getattr(dtype, "itemsize", 4)
