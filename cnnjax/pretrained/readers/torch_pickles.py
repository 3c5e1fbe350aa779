"""The pickles of torch.save, by the standard library's unpickler with every name replaced.

An unpickler calls whatever a file names; here every name stands for a class of this module. Storages, views of them
and dictionaries are what they are; every other object is opaque: made, and never looked into nor run.
"""

import io
import pickle
import pickletools
from typing import Any, NamedTuple

from cnnjax.pretrained.readers import ITEM_SIZES, MAX_RANK, WeightsError, short

# The pickle of torchvision's largest net has 0.2 MB and 23,000 instructions; with an optimizer, three times that.
_MAX_INSTRUCTIONS = 1_000_000
_STORAGES = {"Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Long": "I64", "Int": "I32"}
_STORAGES |= {"Short": "I16", "Char": "I8", "Byte": "U8", "Bool": "BOOL"}
# Types that safetensors has no name for; their numbers are passed over where they are not of the state.
_OTHER_SIZES = {"ComplexFloat": 8, "ComplexDouble": 16, "QInt8": 1, "QUInt8": 1, "QInt32": 4}


class Opaque:
    """An object that is not built: it takes whatever the pickle does to it, and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> "Opaque":
        return self

    def _nothing(self, *_: Any) -> None: ...

    __setstate__ = append = extend = add = __setitem__ = _nothing


class Dictionary(dict[Any, Any]):
    """A dictionary whose attributes, such as a state's `_metadata`, are left out."""

    def __setstate__(self, _: Any) -> None: ...


class Storage(NamedTuple):
    """A block of numbers of one type, the first number of a view, and how many the file says there are."""

    kind: str
    key: str
    count: int
    offset: int

    @property
    def code(self) -> str:
        """The type by safetensors' name; empty for one that it does not know."""
        return _STORAGES.get(self._short, "")

    @property
    def nbytes(self) -> int:
        """Bytes that its numbers take."""
        return self.count * (ITEM_SIZES[self.code] if self.code else _OTHER_SIZES.get(self._short, 0))

    @property
    def _short(self) -> str:
        return self.kind.removeprefix("torch.").removesuffix("Storage")


class View(Opaque):
    """A tensor: where it begins in its storage, its shape and its strides, in numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __new__(cls, *arguments: Any) -> Any:
        given: tuple[Any, ...] = (*arguments, None, None, None, None)
        storage, offset, shape, strides = given[:4]
        sizes = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= MAX_RANK
        if not sizes or not isinstance(storage, Storage) or not all(map(is_size, (offset, *shape, *strides))):
            raise WeightsError("a tensor in it is not a view of a storage.")
        view: Any = object.__new__(cls)
        view.storage, view.offset, view.shape, view.strides = storage, offset, shape, strides
        return view


class _Parameter(Opaque):
    """A parameter: the tensor that it holds."""

    def __new__(cls, tensor: Any = None, *_: Any) -> Any:
        return tensor


class _Derived(Opaque):
    """A tensor of a class of its own, or with attributes: what it is rebuilt from."""

    def __new__(cls, function: Any = None, _: Any = None, arguments: Any = (), *__: Any) -> Any:
        return function(*arguments) if function in (View, _Parameter) and isinstance(arguments, tuple) else Opaque()


class _Size(Opaque):
    """A shape, which is a tuple."""

    def __new__(cls, sizes: Any = (), *_: Any) -> Any:
        return tuple(sizes) if isinstance(sizes, list | tuple) else ()


_BUILT: dict[str, type] = {
    "collections.OrderedDict": Dictionary,
    "torch._utils._rebuild_tensor": View,
    "torch._utils._rebuild_tensor_v2": View,
    "torch._utils._rebuild_parameter": _Parameter,
    "torch._utils._rebuild_parameter_with_state": _Parameter,
    "torch._tensor._rebuild_from_type_v2": _Derived,
    "torch.Size": _Size,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, known: dict[str, Storage]):
        super().__init__(file)
        self._known, self._types = known, dict(_BUILT)

    def find_class(self, module_name: str, global_name: str) -> Any:
        name = f"{module_name}.{global_name}"
        if name not in self._types:
            self._types[name] = type(name[:100].replace("\0", "?"), (Opaque,), {})
        return self._types[name]

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            # In the older form, a module's class comes with its source; it is as opaque as any other.
            return pid[1] if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module" else Opaque()
        _, kind, key, _, count, *views = pid
        first = views[0] if views else None
        # Before 1.0, torch wrote a slice of a storage as a view of its root, which has the key.
        begin = 0 if first is None else first[1] if isinstance(first, tuple) and len(first) == 3 else None
        if not isinstance(kind, type) or not isinstance(key, str) or not is_size(count) or not is_size(begin):
            raise WeightsError("it refers to something that is not a storage of numbers.")
        storage = Storage(kind.__name__, key, count, begin or 0)
        first = self._known.setdefault(key, storage)
        if (first.kind, first.count) != (storage.kind, storage.count):
            raise WeightsError(f"storage {key[:40]!r} is said to be of two types or sizes.")
        return storage


def unpickle(file: io.BytesIO, known: dict[str, Storage]) -> Any:
    """Return the value that one pickle describes; the file stands behind it afterwards."""
    begin = file.tell()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > _MAX_INSTRUCTIONS:
                raise WeightsError("its pickle has more instructions than any file of weights.")
            if opcode.name in ("PUT", "LONG_BINPUT") and (argument or 0) > _MAX_INSTRUCTIONS:
                raise WeightsError("its pickle is damaged (a memo of absurd size).")
        file.seek(begin)
        return _Unpickler(file, known).load()
    except (WeightsError, MemoryError):
        raise
    except Exception as error:  # whatever the unpickler makes of damage, and the classes here of odd arguments
        raise WeightsError(f"its pickle is damaged ({type(error).__name__}: {short(error)[:60]}).") from error


def is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62
