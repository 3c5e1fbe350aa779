"""Flax's msgpack files: maps whose leaves are arrays, read by the msgpack library that Flax writes them with."""

import mmap
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import numpy as np

from cnnjax.pretrained.readers import CODES, MAX_DEPTH, MAX_NAME, MAX_TENSORS, WeightsError, checked_size, short
from cnnjax.safetensors import DTYPES

_MAX_ITEMS = 1_000_000
# What Flax makes of an array of more than a gigabyte.
_CHUNKED = "__msgpack_chunked_array__"


class _Limits:
    """Makes the containers of a file, and counts what is in them."""

    def __init__(self) -> None:
        self.items = 0

    def many(self, values: list[Any]) -> list[Any]:
        self.items += 1 + len(values)
        if self.items > _MAX_ITEMS:
            raise WeightsError(f"it has more than {_MAX_ITEMS} items.")
        return values

    def pairs(self, pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
        result = dict(self.many(pairs))
        if len(result) != len(pairs):
            raise WeightsError(f"{str(pairs[0][0])[:80]} or another name is in it more than once.")
        return result


def open_msgpack(path: pathlib.Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return shape, type and values of each array of a file of `flax.serialization`, and what is to be said.

    Raises:
      WeightsError: If it is damaged or holds anything but maps, arrays, numbers and strings.
    """
    limits = _Limits()
    hooks = {"list_hook": limits.many, "object_pairs_hook": limits.pairs}  # an array stays an ExtType
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            tree = msgpack.unpackb(content, strict_map_key=True, **hooks)
        except WeightsError:
            raise
        except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
            raise WeightsError(_explain(error)) from error
    found: dict[str, Any] = {}
    others: list[str] = []
    for name, leaf in _leaves(tree, "", 0):
        if leaf is None:
            others.append(name)
        elif name in found or len(found) >= MAX_TENSORS:
            raise WeightsError(f"{name[:80]} is in it more than once, or it has more than {MAX_TENSORS} tensors.")
        else:
            found[name] = (leaf.shape, leaf.dtype, _copy(leaf))
    if not found:
        raise WeightsError("there are no arrays in it.")
    shown = ", ".join(name[:40] for name in others[:8]) + (" ..." if len(others) > 8 else "")
    return found, (f"Entries that are not arrays were not read: {shown}.",) if others else ()


def _copy(array: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: array.copy()


def _explain(error: Exception) -> str:
    text = short(error)
    if isinstance(error, msgpack.ExtraData):
        return f"expected the file to end with its tree, {len(error.extra)} bytes follow."  # type: ignore[attr-defined]
    if isinstance(error, RecursionError | msgpack.StackError):
        return f"it is nested more than {MAX_DEPTH} deep."
    if "incomplete" in text or "exceeds max" in text:
        return "it ends in the middle."
    if "not allowed for map key" in text:
        return "a map in it has a key that is not a string."
    if isinstance(error, UnicodeDecodeError):
        return "a name in it is not plain text."
    return f"it is not msgpack, or damaged ({text or type(error).__name__})."


def _leaves(tree: Any, name: str, depth: int) -> Iterator[tuple[str, np.ndarray | None]]:
    """Yield every leaf with its path: arrays, and None for what is none."""
    if isinstance(tree, dict) and _CHUNKED in tree:
        yield name, _joined(tree, name)
    elif isinstance(tree, msgpack.ExtType | msgpack.Timestamp):
        yield name, _array(tree, name)
    elif isinstance(tree, dict | list):
        if depth >= MAX_DEPTH:
            raise WeightsError(f"it is nested more than {MAX_DEPTH} deep.")
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            if not isinstance(key, str | int):
                raise WeightsError(f"{name[:80] or 'its root'}: a map in it has a key that is not a string.")
            if len(name) + len(str(key)) > MAX_NAME:
                raise WeightsError(f"a name in it has {len(str(key))} bytes, with those before more than {MAX_NAME}.")
            inner = f"{name}/{key}" if name or isinstance(tree, list) else str(key)
            yield from _leaves(value, inner, depth + 1)
    else:
        yield name, None


def _array(leaf: Any, name: str) -> np.ndarray:
    """Return the array of an extension: shape, name of the type and bytes, themselves msgpack."""
    shown = name[:80] or "its root"
    code, data = leaf if isinstance(leaf, msgpack.ExtType) else (255, b"")
    if code not in (1, 3):  # an array, and a NumPy scalar
        raise WeightsError(f"{shown}: expected an array, found something else (type {code}).")
    try:
        parts = msgpack.unpackb(data)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise WeightsError(f"{shown}: it is damaged: {_explain(error)}") from error
    if not isinstance(parts, list) or len(parts) != 3 or not isinstance(parts[0], list):
        raise WeightsError(f"{shown}: expected an array's shape, type and bytes.")
    shape, kind, values = tuple(parts[0]), parts[1], parts[2]
    dtype = DTYPES.get(CODES.get(kind, "")) if isinstance(kind, str) else None
    if dtype is None or not isinstance(values, bytes) or {type(n) for n in shape} - {int}:
        raise WeightsError(f"{shown}: expected a shape, the name of a type of numbers and bytes.")
    if (nbytes := checked_size(shown, shape, dtype.itemsize, len(values))) != len(values):
        raise WeightsError(f"{shown}: expected {nbytes} bytes for {dtype}{list(shape)}, found {len(values)}.")
    return np.frombuffer(values, dtype).reshape(shape)


def _joined(tree: dict[str, Any], name: str) -> np.ndarray:
    """Return an array that Flax cut into pieces."""
    try:
        shape = tuple(tree["shape"][str(n)] for n in range(len(tree["shape"])))
        pieces = [_array(tree["chunks"][str(n)], name).reshape(-1) for n in range(len(tree["chunks"]))]
        return np.concatenate(pieces).reshape(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{name[:80]}: its pieces are damaged ({short(error)}).") from error
