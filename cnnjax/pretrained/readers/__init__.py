"""What every reader of weights gives, and the limits that all keep. Nothing here takes long to import."""

import json
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from cnnjax.errors import CnnjaxError

# No published net has longer names, deeper shapes or more tensors; a file that claims them is damaged or hostile.
MAX_NAME, MAX_RANK, MAX_TENSORS, MAX_DEPTH = 1024, 8, 100_000, 32
# Weights are noise, which hardly shrinks; what grows more than this (beyond a constant) when it is unpacked is a bomb.
GROWTH, FREE = 50, 16 << 20
# The format of safetensors allows 100 MB; 100,000 tensors take about a tenth of it.
MAX_HEADER = 32 << 20
# Braces, brackets, commas and colons of a JSON text: a tensor of a safetensors header takes at most twenty.
_MAX_PIECES = 20 * MAX_TENSORS
ORBAX_METADATA = "_METADATA"
# Bytes of a number, by safetensors' names of the types.
ITEM_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4}
ITEM_SIZES |= {"U16": 2, "U8": 1, "BOOL": 1}
# The same types by NumPy's names.
CODES = {
    **{f"{kind}{8 * size}": f"{kind[0].upper()}{8 * size}" for kind in ("int", "uint") for size in (1, 2, 4, 8)},
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "bool": "BOOL",
}


class WeightsError(CnnjaxError):
    """A file of weights could not be read, is not what it says it is, or does not fit the model."""

    def __init__(self, message: str):
        super().__init__(printable(message))


def printable(text: str) -> str:
    """Return text out of a file in one line, without what could move a terminal's cursor or change its colours."""
    return "".join(c if c.isprintable() else "?" for c in text)


class Tensor(NamedTuple):
    """One tensor of a file; `pieces` gives its bytes, rows first and little-endian."""

    name: str
    code: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[Any]]


class Content(NamedTuple):
    """What a reader found: the tensors in the file's order, what is to be said, and what is beside the state.

    Args:
      format: Such as `torch`.
      tensors: The state's.
      notes: One sentence each.
      left_out: Name, type, shape and reason of tensors outside the state.
      config: What the file says of the layers beside their weights, by layer.
    """

    format: str
    tensors: list[Tensor]
    notes: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str, tuple[int, ...], str], ...] = ()
    config: dict[str, Any] = {}  # noqa: RUF012  never changed


def checked_size(name: str, shape: tuple[int, ...], item_size: int, available: int) -> int:
    """Return the bytes that a tensor takes, after checking that the file can hold that many.

    Args:
      name: For the message.
      shape: As the file claims.
      item_size: Bytes of a number.
      available: Bytes that there are.
    Raises:
      WeightsError: If the name or the shape is absurd or the bytes are more than there are.
    """
    if len(name) > MAX_NAME:
        raise WeightsError(f"a tensor's name of {len(name)} characters; at most {MAX_NAME} are read.")
    if len(shape) > MAX_RANK or any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in shape):
        raise WeightsError(f"{name}: expected a shape of at most {MAX_RANK} sizes >= 0, got {str(shape)[:80]}.")
    size = math.prod(shape) * item_size
    if size > available:
        raise WeightsError(f"{name}: claims {size} bytes, the file has {available} for it.")
    return size


def parse_json(text: bytes, what: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return the value of a JSON text, after counting what it would make: small pieces take many times their bytes.

    Args:
      text: In UTF-8.
      what: For the message, such as `its header`.
      pairs: Makes the objects, as `object_pairs_hook`.
    Raises:
      WeightsError: If it is not JSON, or has more pieces than a file with `MAX_TENSORS` needs.
    """
    if sum(map(text.count, (b"{", b"[", b",", b":"))) > _MAX_PIECES:
        raise WeightsError(f"{what} is larger than that of any file of weights.")
    try:
        return json.loads(text.decode(), object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{what} is damaged.") from error


def short(error: BaseException) -> str:
    """Return the beginning of an error's words in one line."""
    return " ".join(str(error).split())[:120].rstrip(".") or type(error).__name__
