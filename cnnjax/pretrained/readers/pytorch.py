"""Files of torch.save, in their zip and in their older form."""

import io
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cnnjax.pretrained.readers import ITEM_SIZES as SIZES
from cnnjax.pretrained.readers import MAX_DEPTH, MAX_TENSORS, Content, Tensor, WeightsError, checked_size
from cnnjax.pretrained.readers.torch_pickles import Opaque, Storage, View, unpickle
from cnnjax.pretrained.readers.zips import Archive

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
# Where training scripts put the state when they save more than that, in the order of preference.
_KEYS = ("state_dict", "model_state_dict", "model", "net")
_MAX_PICKLE = 32 << 20
_BLOCK, _SHOWN = 1 << 20, 100
_SAVE_ALONE = "Nothing in it was run; if you trust it, save its state_dict alone."


# For a storage, the bytes that the file has for it, and what gives them piece by piece.
_Storages = Callable[[Storage], tuple[int, Callable[[], Iterable[bytes]]]]


def read(path: str, which: str = "") -> Content:
    """Return the tensors of a file of torch.save in its form of before 1.6.

    Args:
      path: The file.
      which: The key of the state to take; empty for the usual one.
    Raises:
      WeightsError: If it is damaged, or no state is in it, or a tensor lies outside its storage.
    """
    return _content(*_read_legacy(path), which)


def read_archive(archive: Archive, which: str) -> Content:
    """Return the tensors of an archive of torch.save; the rest is as for `read`."""
    return _content(*_read_zip(archive), which)


def _content(content: Any, storages: _Storages, which: str) -> Content:
    state, chosen, notes = _find_state(content, which)
    left_out = tuple(_left_out(content, state, chosen))
    found: list[Tensor] = []
    others: list[str] = []
    for name, value in state.items():
        if not isinstance(value, View):
            others.append(str(name)[:40])
        elif not isinstance(name, str):
            raise WeightsError(f"expected names of tensors, found the number {name}.")
        else:
            found.append(_tensor(name, value, storages))
    if others:
        notes.append(f"Entries that are not tensors were not read: {_listed(others)}.")
    if len(found) + len(left_out) > MAX_TENSORS:
        raise WeightsError(f"expected at most {MAX_TENSORS} tensors, it has {len(found) + len(left_out)}.")
    return Content("torch", found, tuple(notes), left_out)


def _read_zip(archive: Archive) -> tuple[Any, _Storages]:
    roots = [name.removesuffix("data.pkl") for name in archive.members if name.rpartition("/")[2] == "data.pkl"]
    if len(roots) != 1 or roots[0].count("/") > 1:
        raise WeightsError("it is a zip archive, but neither of torch (one data.pkl) nor of Keras (model.weights.h5).")
    root = roots[0]
    if f"{root}constants.pkl" in archive.members:
        raise WeightsError("it is a TorchScript program, which would have to be run; save its state_dict instead.")
    order = archive.members.get(f"{root}byteorder")
    if order and order.file_size < 10 and (said := archive.read(order.filename)) != b"little":
        raise WeightsError(f"expected numbers in little-endian order, they are in {said!r}.")
    size = archive.members[f"{root}data.pkl"].file_size
    if size > _MAX_PICKLE:
        raise WeightsError(f"expected a description of at most {_MAX_PICKLE} bytes, it has {size}.")
    content = unpickle(io.BytesIO(archive.read(f"{root}data.pkl")), {})

    def locate(storage: Storage) -> tuple[int, Callable[[], Iterable[bytes]]]:
        name = f"{root}data/{storage.key}"
        if name not in archive.members:
            raise WeightsError(f"the numbers of storage {storage.key[:40]!r} are missing.")
        return archive.members[name].file_size, lambda: archive.pieces(name)

    return content, locate


def _read_legacy(path: str) -> tuple[Any, _Storages]:
    """Read five pickles in a row, behind which the numbers of each storage stand, eight bytes of count before them."""
    file = open(path, "rb")  # noqa: SIM115  to the end of the process
    size, begins, storages = file.seek(0, 2), {}, {}
    file.seek(0)
    pickles = io.BytesIO(file.read(_MAX_PICKLE))
    if unpickle(pickles, storages) != _MAGIC or unpickle(pickles, storages) != _VERSION:
        raise WeightsError("it begins like a file of torch.save but is none.")
    system = unpickle(pickles, storages)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise WeightsError("expected numbers in little-endian order.")
    content, keys = unpickle(pickles, storages), unpickle(pickles, {})
    if not isinstance(keys, list) or len(keys) > MAX_TENSORS or not all(isinstance(key, str) for key in keys):
        raise WeightsError("its list of storages is damaged.")
    position = pickles.tell()
    for key in keys:
        if key not in storages or key in begins:
            raise WeightsError(f"its list of storages names {key[:40]!r}, which no tensor uses or which came before.")
        expected = storages[key].count
        file.seek(position)
        count = int.from_bytes(file.read(8), "little", signed=True)
        end = position + 8 + storages[key].nbytes
        if count != expected or end > size:
            room = max(0, size - position - 8)
            raise WeightsError(f"storage {key[:40]!r} has {count} numbers in {room} bytes, expected {expected}.")
        begins[key], position = position + 8, end
    if position != size:
        raise WeightsError(f"expected the file to end with its last storage, {size - position} bytes follow.")

    def pieces(begin: int, count: int) -> Iterator[bytes]:
        file.seek(begin)
        while count:
            piece = file.read(min(_BLOCK, count))
            if not piece:
                raise WeightsError("it is shorter than when it was opened.")
            count -= len(piece)
            yield piece

    def locate(storage: Storage) -> tuple[int, Callable[[], Iterable[bytes]]]:
        if storage.key not in begins:
            raise WeightsError(f"the numbers of storage {storage.key[:40]!r} are missing.")
        return storage.nbytes, lambda: pieces(begins[storage.key], storage.nbytes)

    return content, locate


def _find_state(content: Any, which: str) -> tuple[dict[Any, Any], str, list[str]]:
    """Return the state, the key that it is under or nothing, and what is to be said of that."""
    if not isinstance(content, dict):
        kind = content if isinstance(content, type) else type(content)
        if issubclass(kind, Opaque) and kind is not View:
            raise WeightsError(
                f"it would construct {kind.__name__[:80]!r}, which is more than tensors, numbers, strings and their "
                f"containers. {_SAVE_ALONE}"
            )
        raise WeightsError(_no_state(""))
    states = [key for key in content if isinstance(key, str) and _has_tensors(content[key])]
    if which:
        if which not in states:
            raise WeightsError(f"there is no state under {which[:40]!r}; there is {_listed(states) or 'none'}.")
        states.remove(which)
        return content[which], which, [f"The state is under {which!r}, as asked for.", *_others(states, "")]
    preferred = [key for key in _KEYS if key in states] + ([] if _has_tensors(content) else states)
    if preferred:
        chosen = preferred[0]
        beside = [str(key)[:40] for key in content if key != chosen]
        states.remove(chosen)
        said = f"The state is under {chosen[:40]!r}" + (f", beside {_listed(beside)}." if beside else ".")
        return content[chosen], chosen, [said, *_others(states, chosen)]
    if _has_tensors(content):
        return content, "", []
    whole = next((key for key in _KEYS if isinstance(content.get(key), Opaque)), None)
    kind = f" Under {whole!r} is a {type(content[whole]).__name__[:80]!r}. {_SAVE_ALONE}" if whole else ""
    raise WeightsError(_no_state(kind))


def _others(states: list[str], chosen: str) -> list[str]:
    return [f"Other states in it: {_listed([s[:40] for s in states])}; which= (--which) takes one."] if states else []


def _no_state(more: str) -> str:
    return f"there is no state_dict in it: a dictionary of tensors, or one under 'state_dict' or 'model'.{more}"


def _has_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(inner, View) for inner in value.values())


def _left_out(content: dict[Any, Any], state: dict[Any, Any], chosen: str) -> Iterator[tuple[str, str, tuple, str]]:
    """Yield the tensors that are not in the state itself, each once, however often the file names its container.

    Raises:
      WeightsError: If one has the name of a tensor of the state: which of the two is meant, the file does not say.
    """
    seen = {id(content), id(state)}
    for key, value in {} if content is state else content.items():
        if isinstance(value, View) and (key in state or f"module.{key}" in state):
            raise WeightsError(f"{str(key)[:80]} is in it under {chosen[:40]!r} and beside it; keep one of them.")
        reason = f"under {str(key)[:40]!r}, beside the state under {chosen[:40]!r}"
        yield from _tensors_in(value, str(key)[:_SHOWN], reason, seen)
    for key, value in state.items():
        if not isinstance(value, View):
            yield from _tensors_in(value, str(key)[:_SHOWN], f"inside {str(key)[:40]!r}, which is not a tensor", seen)


def _tensors_in(value: Any, name: str, reason: str, seen: set[int]) -> Iterator[tuple[str, str, tuple, str]]:
    """Yield the tensors in a value without recursing; containers may hold themselves."""
    waiting = [(name, value, 1)]
    while waiting:
        name, inner, depth = waiting.pop()
        if isinstance(inner, View) and inner.storage.code:
            yield name, inner.storage.code, inner.shape, reason
        elif isinstance(inner, dict | list | tuple) and not isinstance(inner, Storage) and id(inner) not in seen:
            if depth > MAX_DEPTH:
                raise WeightsError(f"it is nested more than {MAX_DEPTH} deep.")
            seen.add(id(inner))
            pairs = list(inner.items() if isinstance(inner, dict) else enumerate(inner))
            waiting += [(f"{name}.{str(k)[:_SHOWN]}", v, depth + 1) for k, v in reversed(pairs)]


def _tensor(name: str, view: View, locate: _Storages) -> Tensor:
    storage, code = view.storage, view.storage.code
    if not code:
        raise WeightsError(
            f"it would construct {storage.kind[:80]!r} for {name[:80]}, which safetensors does not know."
        )
    available, pieces = locate(storage)
    item, count = SIZES[code], math.prod(view.shape)
    if storage.count * item > available:
        raise WeightsError(f"{name[:80]}: its storage claims {storage.count} numbers, the file has {available} bytes.")
    if count > storage.count and 0 in view.strides:
        raise WeightsError(
            f"{name[:80]}: it is a broadcast view, {storage.count} numbers seen as {list(view.shape)}; save it "
            "with .contiguous()."
        )
    checked_size(name, view.shape, item, storage.count * item)
    last = sum((size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True))
    begin, span = storage.offset + view.offset, last + 1 if count else 0
    if begin + span > storage.count:
        raise WeightsError(f"{name}: it ends {begin + span - storage.count} numbers behind its storage.")
    whole = begin == 0 and span == count and count * item == available and _is_plain(view)
    return Tensor(name, code, view.shape, pieces if whole else lambda: [_strided(pieces, view, begin, span, item)])


def _is_plain(view: View) -> bool:
    """Return whether a view's numbers lie rows first and side by side."""
    expected = 1
    for size, stride in zip(reversed(view.shape), reversed(view.strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _strided(pieces: Callable[[], Iterable[bytes]], view: View, begin: int, span: int, item: int) -> Any:
    """Return the bytes of a view, rows first."""
    numbers = b"".join(pieces())[begin * item : (begin + span) * item]
    if _is_plain(view):
        return numbers
    import numpy as np

    flat = np.frombuffer(numbers, f"V{item}")
    strides = tuple(stride * item for stride in view.strides)
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, view.shape, strides)).tobytes()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
