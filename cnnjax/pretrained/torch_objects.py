"""What a pickle of torch may construct: storages, views of them, and ordered dictionaries; nothing is called."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnjax.pretrained.tensors import BFLOAT16, MAX_RANK, WeightsError

_STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": BFLOAT16,
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


@dataclass(frozen=True)
class Storage:
    """A block of numbers of one type; the numbers are elsewhere in the file.

    Args:
      dtype: Of its numbers.
      key: Where to find them.
      count: How many the file says there are.
      offset: Where they begin, for a view of another storage.
    """

    dtype: np.dtype
    key: str
    count: int
    offset: int = 0


@dataclass(frozen=True)
class StridedTensor:
    """Which numbers of a storage make a tensor, in elements: where it begins, its shape, and its strides."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Global:
    """A name that the file may use: it stands for this constructor."""

    name: str
    make: Callable[..., Any] | None = None


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StridedTensor:
    sizes = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= MAX_RANK
    if not sizes or not isinstance(storage, Storage) or not all(_is_size(n) for n in (offset, *shape, *strides)):
        raise WeightsError("a tensor in it is no view of a storage.")
    return StridedTensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Any, *_: Any) -> StridedTensor:
    if not isinstance(tensor, StridedTensor):
        raise WeightsError("a parameter in it is no tensor.")
    return tensor


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    if not isinstance(pairs, list | tuple) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
        raise WeightsError("a dictionary in it is made of something else than pairs.")
    for key, value in pairs:
        result[checked_key(key)] = value
    return result


GLOBALS = {
    ("collections", "OrderedDict"): Global("OrderedDict", _ordered_dict),
    ("torch._utils", "_rebuild_tensor_v2"): Global("tensor", _rebuild_tensor),
    ("torch._utils", "_rebuild_tensor"): Global("tensor", _rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): Global("parameter", _rebuild_parameter),
    ("torch", "Size"): Global("Size", lambda sizes=(): tuple(sizes) if isinstance(sizes, list | tuple) else ()),
    **{("torch", name): Global(name) for name in _STORAGES},
}


def storage_of(persistent_id: Any) -> Storage:
    """Return the storage of a persistent id as torch writes it.

    Raises:
      WeightsError: If it is no such id.
    """
    if isinstance(persistent_id, tuple) and len(persistent_id) in (5, 6) and persistent_id[0] == "storage":
        _, kind, key, _, count, *views = persistent_id
        known = isinstance(kind, Global) and kind.name in _STORAGES
        if known and isinstance(key, str) and _is_size(count):
            if not views or views[0] is None:
                return Storage(_STORAGES[kind.name], key, count)
            if isinstance(views[0], tuple) and len(views[0]) == 3 and _is_size(views[0][1]):
                # Before 1.0, torch wrote a slice of a storage as a view of its root, which has the key.
                return Storage(_STORAGES[kind.name], key, count, views[0][1])
    raise WeightsError("it refers to something that is no storage of numbers.")


def checked_key(key: Any) -> Any:
    """Return what may be a dictionary's key: hashing it takes time in proportion to its size."""
    if not isinstance(key, str | int | float | bytes | None):
        raise WeightsError("a dictionary in it has a key that is no string or number.")
    return key


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62
