"""The pickles that torch writes, read as data: a small machine that knows arrays, numbers, strings and containers.

Python's unpickler calls whatever a file names. This one calls nothing: it keeps a stack of values, and the few global
names that a file of weights needs stand for constructors of its own (`GLOBALS`); any other name is refused. Every
value takes memory in proportion to the bytes that make it, nothing is hashed but strings and numbers, and nothing
recurses.
"""

import pickletools
from collections.abc import Callable
from typing import IO, Any

from cnnjax.pretrained.tensors import WeightsError
from cnnjax.pretrained.torch_objects import GLOBALS, Global, checked_key

# The pickle of torchvision's largest net has 0.2 MB, and that of a training checkpoint with its optimizer 0.5 MB.
MAX_PICKLE = 32 << 20
_MAX_COPIED = 1_000_000
# A tensor takes about 25; each makes an object of some 64 bytes at most, from a single byte of the file.
_MAX_INSTRUCTIONS = 1_000_000


class _Mark:
    """Where a sequence on the stack began."""


_MARK = _Mark()


def read_pickle(file: IO[bytes], persistent: Callable[[Any], Any] | None = None) -> Any:
    """Return the value that one pickle describes; the file stands behind it afterwards.

    Args:
      file: In memory, so that no claimed size is allocated.
      persistent: Gives the object of a persistent id; without it there may be none.
    Raises:
      WeightsError: If it is damaged or wants anything constructed that is not allowed.
    """
    machine = _Machine(persistent)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > _MAX_INSTRUCTIONS:
                raise WeightsError("its pickle has more instructions than any file of weights.")
            if opcode.name == "STOP":
                break
            operation = _OPERATIONS.get(opcode.name)
            if operation is None:
                raise WeightsError(f"its pickle has an instruction that no file of weights needs ({opcode.name}).")
            operation(machine, argument)
        return machine.pop()
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeError) as error:
        raise WeightsError(f"its pickle is damaged ({type(error).__name__}).") from error


class _Machine:
    """The stack and the memo of a pickle."""

    def __init__(self, persistent: Callable[[Any], Any] | None):
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.persistent = persistent
        self.copied = 0

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value belongs")
        return value

    def pop_to_mark(self) -> list[Any]:
        for begin in range(len(self.stack) - 1, -1, -1):
            if self.stack[begin] is _MARK:
                values = self.stack[begin + 1 :]
                del self.stack[begin:]
                return values
        raise ValueError("no mark")

    def top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise ValueError("the wrong container")
        return self.stack[-1]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_number(self, value: int) -> None:
        if value.bit_length() > 128:
            raise ValueError("an absurd number")
        self.stack.append(value)

    def push_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise ValueError("too few values")
        values = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(values)))

    def set_items(self, values: list[Any]) -> None:
        target = self.top(dict)
        if len(values) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[checked_key(key)] = value

    def remember(self, index: int | None) -> None:
        if self.stack[-1] is _MARK:
            raise ValueError("a mark where a value belongs")
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def find_global(self, module: Any, name: Any) -> None:
        if (module, name) not in GLOBALS:
            what = f"{module}.{name}"[:80]
            raise WeightsError(
                f"it would construct {what!r}, which is more than tensors, numbers, strings and their containers. "
                "Nothing in it was run; if you trust it, save its state_dict alone."
            )
        self.push(GLOBALS[module, name])

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Global) or function.make is None or not isinstance(arguments, tuple):
            raise WeightsError("it calls something that is no constructor of tensors.")
        # The same long list can be named again and again.
        self.copied += sum(len(value) for value in arguments if isinstance(value, list | tuple))
        if self.copied > _MAX_COPIED:
            raise WeightsError("it copies its own values without measure.")
        self.push(function.make(*arguments))

    def build(self) -> None:
        self.pop()  # attributes of a state dict, such as `_metadata`: the versions of its modules
        self.top(dict)

    def find_persistent(self) -> None:
        if self.persistent is None:
            raise ValueError("a persistent id")
        self.push(self.persistent(self.pop()))


def _global_of_stack(machine: _Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    if not (isinstance(name, str) and isinstance(module, str)):
        raise ValueError("a name that is no string")
    machine.find_global(module, name)


def _append_all(machine: _Machine, _: Any) -> None:
    values = machine.pop_to_mark()
    machine.top(list).extend(values)


def _append(machine: _Machine, _: Any) -> None:
    value = machine.pop()
    machine.top(list).append(value)


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


_OPERATIONS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": lambda machine, _: machine.push(_MARK),
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.pop_to_mark(),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "DICT": lambda machine, _: _ordered_from_flat(machine),
    "LIST": lambda machine, _: machine.push(machine.pop_to_mark()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "APPEND": _append,
    "APPENDS": _append_all,
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "GLOBAL": lambda machine, argument: machine.find_global(*argument.split(" ", 1)),
    "STACK_GLOBAL": _global_of_stack,
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.find_persistent(),
    "MEMOIZE": lambda machine, _: machine.remember(None),
    **{name: lambda machine, index: machine.remember(index) for name in ("BINPUT", "LONG_BINPUT")},
    **{name: lambda machine, index: machine.push(machine.memo[index]) for name in ("BINGET", "LONG_BINGET")},
    **{name: lambda machine, n: machine.push_number(n) for name in ("BININT", "BININT1", "BININT2", "LONG1", "LONG4")},
    **{
        name: lambda machine, value: machine.push(value)
        for name in (
            *("BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
            *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        )
    },
}


def _ordered_from_flat(machine: _Machine) -> None:
    values = machine.pop_to_mark()
    machine.push({})
    machine.set_items(values)
