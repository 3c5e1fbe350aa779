"""The parent's side of a reader in a child process: a file that ends the child is one line here."""

import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import weakref
from typing import Any

import numpy as np

from cnnjax.pretrained.readers import MAX_HEADER, WeightsError
from cnnjax.pretrained.readers.stored import parse_header

# What a child may take, libraries included: seconds of processor time, and bytes of addresses, of which tensorstore's
# threads take many. A large file gets more, see `_limits`.
SECONDS, MEMORY, _MEMORY_OF_ORBAX = 20, 1 << 30, 6 << 30
_BLOCK, _MOST_FILES = 1 << 20, 200_000
# The child's paths are this process's own, because `-I` leaves those of the user and of PYTHONPATH out.
_CODE = (
    "import sys; sys.path[:] = sys.argv.pop(1).split('\\n'); import os; "
    "from cnnjax.pretrained.readers.__main__ import main; os._exit(main(*sys.argv[1:]))"
)
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "HDF5_USE_FILE_LOCKING": "FALSE",
    "HDF5_PLUGIN_PRELOAD": "::",
    "PYTHONWARNINGS": "ignore",
}


class Child:
    """A process that reads one file and hands its tensors over in order, as a safetensors file through a pipe.

    Args:
      kind: The reader, a module of `cnnjax.pretrained.readers`.
      path: The file.
      which: The state to take, for a file with several.
    Raises:
      WeightsError: If the file can't be read.
    """

    def __init__(self, kind: str, path: pathlib.Path, which: str):
        self._seconds, memory = _limits(kind, path)
        self._words = [kind, str(path.absolute()), which, str(self._seconds), str(memory)]
        self._header = self._start()
        self.tensors, metadata = parse_header(self._header)
        self.content: dict[str, Any] = json.loads(metadata["content"])

    def read(self, name: str) -> np.ndarray:
        """Return a tensor's values, in memory of their own; in the file's order, which costs the least."""
        entry = self.tensors[name]
        if (self._position > entry.begin or not self._end.alive) and self._start() != self._header:
            raise WeightsError("it changed while it was read.")
        while self._position < entry.begin:
            self._position += len(self._take(min(_BLOCK, entry.begin - self._position)))
        values = np.empty(entry.shape, entry.dtype)
        self._fill(values.reshape(-1).view(np.uint8))
        self._position = entry.end
        if self._position == max(entry.end for entry in self.tensors.values()):
            self._end()
        return values

    def _start(self) -> bytes:
        """Start the process and return the header that it sends; the tensors follow."""
        if hasattr(self, "_end"):
            self._end()
        root = str(pathlib.Path(__file__).parents[3])
        paths = [root, *(path for path in sys.path if os.path.isabs(path) and path != root)]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _CODE, "\n".join(paths), *self._words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pipesize=_BLOCK,
            env=os.environ | _ENVIRONMENT,
        )
        self._end = weakref.finalize(self, _finish, self._process)
        self._position = 0
        length = int.from_bytes(self._take(8), "little")
        if length > MAX_HEADER:
            raise WeightsError("its reader sent what it never should.")
        return self._take(length)

    def _take(self, count: int) -> bytes:
        taken = np.empty(count, np.uint8)
        self._fill(taken)
        return taken.tobytes()

    def _fill(self, values: Any) -> None:
        """Read the next bytes of the child's output into memory."""
        late = threading.Event()  # where the system can't limit the child, the clock does
        timer = threading.Timer(10 * self._seconds, lambda: (late.set(), self._process.kill()))
        timer.start()
        try:
            view, stdout = memoryview(values), self._process.stdout
            while view.nbytes and stdout is not None:
                count = stdout.readinto(view)  # type: ignore[attr-defined]  a raw file, as there is no buffer
                if not count:
                    raise WeightsError(self._what_happened(late.is_set()))
                view = view[count:]
        finally:
            timer.cancel()

    def _what_happened(self, late: bool) -> str:
        """Return why the child ended early."""
        said = self._process.stderr.read().decode(errors="replace").strip() if self._process.stderr else ""
        code = self._process.wait()
        self._end()
        if late or code == -getattr(signal, "SIGXCPU", 0):
            return f"to read it takes more than {self._seconds} s, more than any file of weights of its size needs."
        if code < 0:
            return f"it ended the library that reads it ({signal.Signals(-code).name}): it is damaged or hostile."
        return said.splitlines()[-1] if said else "its reader ended without a word."


def _limits(kind: str, path: pathlib.Path) -> tuple[int, int]:
    """Return the seconds of processor time and the bytes of memory that a file's reader gets."""
    parts = [path] if path.is_file() else itertools.islice(path.rglob("*"), _MOST_FILES)
    size = sum(part.stat().st_size for part in parts if part.is_file())
    return SECONDS + size // (16 << 20), (_MEMORY_OF_ORBAX if kind == "orbax" else MEMORY) + 3 * size


def _finish(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    process.wait()
