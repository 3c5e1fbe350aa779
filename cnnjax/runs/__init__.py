"""What a run on disk is: its folder, checkpoints, digest, and how signals end it."""

from cnnjax.runs.checkpoint import Checkpoints, callback_arrays, restore_state, restore_variables
from cnnjax.runs.digest import digest_arrays, digest_directory
from cnnjax.runs.signals import StopOnSignal
from cnnjax.runs.storage import CheckpointError, is_final, load, load_newest, save
from cnnjax.runs.workdir import Workdir, default_workdir, environment, read_run

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "StopOnSignal",
    "Workdir",
    "callback_arrays",
    "default_workdir",
    "digest_arrays",
    "digest_directory",
    "environment",
    "is_final",
    "load",
    "load_newest",
    "read_run",
    "restore_state",
    "restore_variables",
    "save",
]
