"""What a run on disk is: its folder, checkpoints, digest, and how signals end it."""

from cnnjax.runs.arrays import callback_arrays, digest_arrays, flatten_state, restore_state, restore_variables
from cnnjax.runs.checkpoint import Checkpoints
from cnnjax.runs.environment import environment
from cnnjax.runs.signals import AgreedStopOnSignal, StopOnSignal
from cnnjax.runs.storage import CheckpointError, digest_directory, is_final, load, load_newest, save
from cnnjax.runs.workdir import Workdir, default_workdir, read_run

__all__ = [
    "AgreedStopOnSignal",
    "CheckpointError",
    "Checkpoints",
    "StopOnSignal",
    "Workdir",
    "callback_arrays",
    "default_workdir",
    "digest_arrays",
    "digest_directory",
    "environment",
    "flatten_state",
    "is_final",
    "load",
    "load_newest",
    "read_run",
    "restore_state",
    "restore_variables",
    "save",
]


def __dir__() -> list[str]:
    return __all__
