"""The child process that reads what nobody vouches for: `python -m cnnjax.pretrained.readers KIND PATH WHICH`.

It limits itself before it opens the file, writes a safetensors file to its output, piece by piece, and what is wrong,
in one line, to its errors.
"""

import contextlib
import importlib
import json
import math
import os
import sys
from typing import Any

from cnnjax.pretrained.readers import ITEM_SIZES, MAX_HEADER, Content, WeightsError, short

_LONGEST_LINE = 2000  # characters of an error


def main(kind: str, path: str, which: str, seconds: str, memory: str) -> int:
    """Read one file within limits and write its tensors to the standard output.

    Args:
      kind: The reader's module.
      path: The file or folder.
      which: The state to take, for a file with several.
      seconds: Of processor time.
      memory: Bytes of memory.
    """
    errors, output = os.dup(2), os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # a library's own words would fill the pipe
    os.dup2(nowhere, 1)
    try:
        reader = importlib.import_module(f"cnnjax.pretrained.readers.{kind}")
        _limit(int(seconds), int(memory))
        with os.fdopen(output, "wb", buffering=0) as file:
            _send(reader.read(path, which), file)
        return 0
    except BrokenPipeError:  # nobody wants the rest
        return 0
    except Exception as error:
        os.write(errors, explain(error)[:_LONGEST_LINE].encode())
        return 1


def explain(error: Exception) -> str:
    """Return what is wrong with a file, in one line, whatever a library made of it."""
    if isinstance(error, WeightsError):
        return str(error)
    if isinstance(error, ImportError):
        return f"to read it takes a library that is not installed ({short(error)})."
    if isinstance(error, MemoryError):
        return "to read it takes more memory than any file of weights of its size needs."
    if isinstance(error, OSError):
        return f"{error.strerror or short(error)}."
    return f"it is damaged ({type(error).__name__}: {short(error)})."


def _limit(seconds: int, memory: int) -> None:
    """Limit what this process can take; what the system can't limit, the parent's clock does."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for name, value, more in (("AS", memory, 0), ("CPU", seconds, 5), ("FSIZE", 0, 0), ("CORE", 0, 0)):
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        limits = [v if hard == resource.RLIM_INFINITY else min(v, hard) for v in (value, value + more)]
        with contextlib.suppress(OSError, ValueError):  # macOS has no limit of addresses
            resource.setrlimit(kind, (limits[0], limits[1]))


def _send(content: Content, file: Any) -> None:
    header: dict[str, Any] = {}
    position = 0
    for name, code, shape, _ in content.tensors:
        end = position + math.prod(shape) * ITEM_SIZES[code]
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [position, end]}
        position = end
    header["__metadata__"] = {"content": json.dumps(content._replace(tensors=[])._asdict())}
    text = json.dumps(header).encode()
    if len(text) > MAX_HEADER:
        raise WeightsError("it has more tensors or longer names than any file of weights.")
    _write(file, len(text).to_bytes(8, "little") + text)
    for tensor in content.tensors:
        for piece in tensor.pieces():
            _write(file, piece)


def _write(file: Any, piece: Any) -> None:
    view = memoryview(piece)
    rest = view.cast("B") if view.nbytes else view
    while rest.nbytes:
        rest = rest[file.write(rest) :]


if __name__ == "__main__":
    os._exit(main(*sys.argv[1:]))  # without tidying up what a file may have made huge
