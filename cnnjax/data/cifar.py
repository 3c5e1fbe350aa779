"""CIFAR's files: its binary version, and its python version's pickles, which are read without running them."""

import io
import pickle
import pickletools
from collections.abc import Mapping
from typing import Any

import numpy as np

from cnnjax.data.formats import Examples, Format, Splits, gunzip
from cnnjax.errors import CnnjaxError

_LIMIT = 256 * 2**20
_MOST_TUPLES = 1000  # CIFAR's files have six; a million, one in the other, would overflow the stack


def cifar_binary_format(
    files: Mapping[str, tuple[str, ...]], examples_a_file: Mapping[str, int], coarse: bool
) -> Format:
    """Return the format of CIFAR's binary version: label bytes, then 3,072 bytes, channel by channel, an example."""
    stride = 3072 + 1 + coarse
    most = max(examples_a_file.values()) * stride

    def decode(found: dict[str, bytes]) -> Splits:
        splits = {}
        for split, names in files.items():
            rows = [_rows(name, gunzip(name, found[name], most), examples_a_file[split], stride) for name in names]
            table = np.concatenate(rows)
            images = table[:, 1 + coarse :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            labels = table[:, : 1 + coarse].astype(np.int32)
            splits[split] = Examples(
                np.ascontiguousarray(images), labels[:, -1].copy(), labels[:, 0].copy() if coarse else None
            )
        return splits

    limits = {name: most for names in files.values() for name in names}
    return Format("the files of the binary version", limits, decode)


def _rows(name: str, data: bytes, count: int, stride: int) -> np.ndarray:
    if len(data) != count * stride:
        raise CnnjaxError(f"{name}: expected {count * stride:,} bytes, got {len(data):,}: truncated or not this file.")
    return np.frombuffer(data, np.uint8).reshape(count, stride)


def cifar_python_format(
    files: Mapping[str, tuple[str, ...]], examples_a_file: Mapping[str, int], coarse: bool
) -> Format:
    """Return the format of CIFAR's python version: pickled dictionaries of `data` and labels."""

    def decode(found: dict[str, bytes]) -> Splits:
        splits = {}
        for split, names in files.items():
            read = [_batch(name, gunzip(name, found[name], _LIMIT), examples_a_file[split], coarse) for name in names]
            images, labels, families = (np.concatenate(parts) for parts in zip(*read))
            images = np.ascontiguousarray(images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            splits[split] = Examples(images, labels, families if coarse else None)
        return splits

    limits = {name: _LIMIT for names in files.values() for name in names}
    return Format("the files of the python version", limits, decode)


def _batch(name: str, data: bytes, count: int, coarse: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    found = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in _load(name, data).items()}
    images = found.get("data")
    if not isinstance(images, _Array) or images.shape != (count, 3072) or images.kind not in ("u1", "|u1"):
        raise CnnjaxError(f"{name}: expected data of uint8 ({count}, 3072).")
    labels = []
    for key in ("fine_labels", "coarse_labels") if coarse else ("labels", "labels"):
        numbers = found.get(key)
        if not isinstance(numbers, list) or len(numbers) != count or {type(number) for number in numbers} != {int}:
            raise CnnjaxError(f"{name}: expected {count} whole numbers as {key}.")
        labels.append(np.array(numbers, np.int64).astype(np.int32))
    return np.frombuffer(images.content, np.uint8).reshape(count, 3072), *labels


def _load(name: str, data: bytes) -> dict[Any, Any]:
    try:
        if sum(operation.name.startswith("TUPLE") for operation, *_ in pickletools.genops(data)) > _MOST_TUPLES:
            raise pickle.UnpicklingError("too many tuples")
        found = _Reader(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises anything
        raise CnnjaxError(f"{name}: truncated, or not CIFAR's file ({error or type(error).__name__}).") from error
    if not isinstance(found, dict):
        raise CnnjaxError(f"{name}: expected a dictionary, got {type(found).__name__}.")
    return found


class _Array:
    """An array as a pickle describes it; NumPy itself makes nothing of what is not trusted."""

    shape, kind, content = (), "", b""

    def __setstate__(self, state: Any) -> None:
        _, self.shape, dtype, is_fortran, content = state
        self.kind = dtype.kind if isinstance(dtype, _Dtype) and not is_fortran else ""
        size = int(np.prod(self.shape)) if all(type(side) is int for side in self.shape) else -1
        self.content = content if isinstance(content, bytes) else b""
        if self.kind == "" or len(self.content) != size:
            raise pickle.UnpicklingError("an array whose bytes do not fit its shape")


class _Dtype:
    """An array's type as a pickle describes it."""

    def __init__(self, kind: Any = "", *flags: Any):
        self.kind = kind.decode("latin1") if isinstance(kind, bytes) else kind

    def __setstate__(self, state: Any) -> None:
        pass


# In Python, not C: the one in C takes gigabytes for a number that a pickle's nine bytes name.
class _Reader(pickle._Unpickler):
    """An unpickler that knows arrays of bytes and nothing else."""

    _KNOWN = {  # noqa: RUF012
        ("multiarray", "_reconstruct"): lambda *_: _Array(),
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): lambda text, *_: text.encode("latin1"),
    }

    def find_class(self, module: str, name: str) -> Any:
        short = "multiarray" if module in ("numpy.core.multiarray", "numpy._core.multiarray") else module
        if (short, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not run")
        return self._KNOWN[short, name]
