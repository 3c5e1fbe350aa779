"""From what a file of torch holds to its tensors: which dictionary is the state, and views of storages as arrays."""

import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cnnjax.pretrained.tensors import MAX_TENSORS, LeftOut, SourceFile, SourceTensor, WeightsError, checked_size
from cnnjax.pretrained.torch_objects import Storage, StridedTensor

# Where training scripts put the state when they save more than that, in the order of preference.
_KEYS = ("state_dict", "model_state_dict", "model", "net")
# How deep an optimizer's state may be nested, and how much of a key is shown.
_MAX_DEPTH, _SHOWN_KEY = 32, 100


def make_source(
    path: pathlib.Path, content: Any, locate: Callable[[Storage], tuple[int, Callable[[int, int], bytes]]]
) -> SourceFile:
    """Return the tensors of a file of torch.

    Args:
      path: The file.
      content: What its pickle says.
      locate: For a storage, the bytes that the file has for it and what reads so many bytes from an offset in it.
    Raises:
      WeightsError: If there is no state in it or two that contradict each other, or a tensor lies outside its storage.
    """
    state, key, notes = _find_state(content)
    left_out = tuple(_left_out(content, state, key))
    tensors: dict[str, SourceTensor] = {}
    for name, value in state.items():
        if isinstance(value, StridedTensor):
            if not isinstance(name, str):
                raise WeightsError(f"expected names of tensors, found the number {name}.")
            tensors[name] = _tensor(name, value, *locate(value.storage))
    others = [str(name)[:40] for name, value in state.items() if not isinstance(value, StridedTensor)]
    if others:
        notes.append(f"Entries that are no tensors were not read: {_listed(others)}.")
    if len(tensors) + len(left_out) > MAX_TENSORS:
        raise WeightsError(f"expected at most {MAX_TENSORS} tensors, it has {len(tensors) + len(left_out)}.")
    return SourceFile(path, "torch", tensors, tuple(notes), left_out)


def _left_out(content: dict[Any, Any], state: dict[Any, Any], chosen: Any) -> Iterator[LeftOut]:
    """Yield the tensors that are not in the state itself, each once, however often the file names its container.

    Raises:
      WeightsError: If one has the name of a tensor of the state: which of the two is meant, the file does not say.
    """
    seen = {id(content), id(state)}
    beside = {} if content is state else content
    for key, value in beside.items():
        if isinstance(value, StridedTensor) and (key in state or f"module.{key}" in state):
            raise WeightsError(f"{str(key)[:80]} is in it under {str(chosen)[:40]!r} and beside it; keep one of them.")
        reason = f"under {str(key)[:40]!r}, beside the state under {str(chosen)[:40]!r}"
        yield from _tensors_in(value, str(key)[:_SHOWN_KEY], reason, seen)
    for key, value in state.items():
        if not isinstance(value, StridedTensor):
            yield from _tensors_in(value, str(key)[:_SHOWN_KEY], f"inside {str(key)[:40]!r}, which is no tensor", seen)


def _tensors_in(value: Any, name: str, reason: str, seen: set[int]) -> Iterator[LeftOut]:
    """Yield the tensors in a value without recursing; containers may hold themselves."""
    waiting = [(name, value, 1)]
    while waiting:
        name, inner, depth = waiting.pop()
        if isinstance(inner, StridedTensor):
            yield LeftOut(name, inner.shape, inner.storage.dtype, reason)
        elif isinstance(inner, dict | list | tuple) and id(inner) not in seen:
            if depth > _MAX_DEPTH:
                raise WeightsError(f"it is nested more than {_MAX_DEPTH} deep.")
            seen.add(id(inner))
            pairs = list(inner.items() if isinstance(inner, dict) else enumerate(inner))
            waiting += [(f"{name}.{str(k)[:_SHOWN_KEY]}", v, depth + 1) for k, v in reversed(pairs)]


def _find_state(content: Any) -> tuple[dict[Any, Any], Any, list[str]]:
    """Return the state, the key that it is under or None, and what is to be said of that."""
    if isinstance(content, dict):
        keys = [key for key in _KEYS if key in content]
        keys += [key for key in content if key not in keys]
        nested = [key for key in keys if _has_tensors(content[key])]
        if nested and (nested[0] in _KEYS or not _has_tensors(content)):
            others = [str(key)[:40] for key in content if key != nested[0]]
            notes = [
                f"The state is under {str(nested[0])[:40]!r}" + (f", beside {_listed(others)}." if others else ".")
            ]
            return content[nested[0]], nested[0], notes
        if _has_tensors(content):
            return content, None, []
    raise WeightsError("there is no state_dict in it: a dictionary of tensors, or one under 'state_dict' or 'model'.")


def _has_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(inner, StridedTensor) for inner in value.values())


def _tensor(name: str, view: StridedTensor, available: int, read: Callable[[int, int], bytes]) -> SourceTensor:
    dtype, itemsize = view.storage.dtype, view.storage.dtype.itemsize
    if view.storage.count * itemsize > available:
        raise WeightsError(
            f"{name[:80]}: its storage claims {view.storage.count} numbers, the file has {available} bytes."
        )
    if math.prod(view.shape) > view.storage.count and 0 in view.strides:
        raise WeightsError(
            f"{name[:80]}: it is a broadcast view, {view.storage.count} numbers seen as {list(view.shape)}; save it "
            "with .contiguous()."
        )
    checked_size(name, view.shape, dtype, view.storage.count * itemsize)
    last = sum((size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True))
    span = 0 if 0 in view.shape else last + 1
    begin = view.storage.offset + view.offset
    if begin + span > view.storage.count:
        raise WeightsError(f"{name}: it ends {begin + span - view.storage.count} numbers behind its storage.")

    def fetch() -> np.ndarray:
        flat = np.frombuffer(read(begin * itemsize, span * itemsize), dtype)
        strides = tuple(stride * itemsize for stride in view.strides)
        if not span:
            return np.zeros(view.shape, dtype)
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, view.shape, strides)).reshape(view.shape)

    return SourceTensor(name, view.shape, dtype, fetch)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
