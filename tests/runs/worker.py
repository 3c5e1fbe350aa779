"""A run in a process of its own, to be killed: `python -m tests.runs.worker WORKDIR [PLACE NTH]`.

It trains in a workdir as `cnnjax train` does, goes on where an earlier process was, and writes into the file `trace`
beside the workdir the newest step it took. With PLACE it dies, as by SIGKILL, the NTH time that it comes there.
"""

import os
import pathlib
import shutil
import struct
import sys

from cnnjax import files, runs
from cnnjax.runs.storage import DELETING, WRITING
from cnnjax.training import Callback, CsvHistory, EarlyStopping, TensorBoard
from tests.runs.tiny_run import resumed, train

EPOCHS, EVERY = 20, 7


class Trace(Callback):
    """Keep the newest step's number where it outlives the process."""

    def __init__(self, path):
        self.file = os.open(path, os.O_RDWR | os.O_CREAT)

    def on_step(self, loop):
        os.pwrite(self.file, struct.pack("<q", loop.step), 0)


def traced(workdir):
    """Return the newest step that a process took in a workdir, None before the first."""
    try:
        return struct.unpack("<q", trace_file(workdir).read_bytes())[0]
    except (FileNotFoundError, struct.error):
        return None


def trace_file(workdir):
    return workdir.with_name(f"{workdir.name}.trace")


def go(path, *callbacks):
    """Train in a workdir until the end, from its newest whole checkpoint on; do nothing when training has ended."""
    with runs.Workdir(path) as workdir:
        newest = runs.load_newest(workdir.checkpoints)
        if newest is not None and runs.is_final(newest[0]):
            return
        saver = runs.Checkpoints(workdir.checkpoints, every_steps=EVERY, every_seconds=0.0, keep_best="val_loss")
        train(
            EarlyStopping(patience=EPOCHS),
            CsvHistory(path / "history.csv"),
            TensorBoard(path / "tensorboard"),
            saver,
            *callbacks,
            epochs=EPOCHS,
            **({} if newest is None else resumed(newest[0])),
        )


def crash(place, nth):
    """Let the process die the nth time that it comes to a place in the life of a checkpoint."""
    left = iter(range(nth - 1, -1, -1))
    write_file, rename, rmtree = files.write_file, pathlib.Path.rename, shutil.rmtree

    def die_there(here):
        if here == place and next(left) == 0:
            os._exit(137)

    def writing(path, pieces):
        if path.parent.name.startswith(WRITING) and path.suffix == ".safetensors":
            content = b"".join(bytes(piece) for piece in pieces)
            path.write_bytes(content[: len(content) // 2])
            die_there("mid-write")
            pieces = [content]
        write_file(path, pieces)

    def renaming(path, target):
        saved = path.name.startswith(WRITING)
        if saved:
            die_there("before-rename")
        result = rename(path, target)
        if saved:
            die_there("after-rename")
        return result

    def removing(path, *args, **options):
        if path.name.startswith(DELETING):
            next(path.iterdir()).unlink()
            die_there("clean-up")
        rmtree(path, *args, **options)

    files.write_file, pathlib.Path.rename, shutil.rmtree = writing, renaming, removing


if __name__ == "__main__":
    sys.modules.setdefault("torch", None)  # pyright: ignore[reportArgumentType]  tensorboardX would take seconds over it
    where = pathlib.Path(sys.argv[1])
    if len(sys.argv) > 2:
        crash(sys.argv[2], int(sys.argv[3]))
    go(where, Trace(trace_file(where)))
