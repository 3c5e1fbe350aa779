"""Joining the other processes of a run, and leaving it when one of them has gone."""

import argparse
import ctypes
import os
import signal
import sys

from cnnjax.cli.output import Output
from cnnjax.errors import CnnjaxError, UsageError

# Seconds after which a silent process counts as dead, and that joining may take.
_HEARTBEAT, _JOINING = 30, 300


class LostProcessError(CnnjaxError):
    """Another process of the run has ended or can't be reached."""


def join(args: argparse.Namespace, out: Output) -> Output:
    """Join the run's other processes if the options say so; return how this one speaks: only the first one does.

    Args:
      args: Options; see `train_options`.
      out: How one process speaks.
    Raises:
      UsageError: If the options do not fit together.
      CnnjaxError: If the others can't be joined.
    """
    explicit = (args.coordinator, args.processes, args.process)
    if all(value is None for value in explicit) and not args.distributed:
        return out
    if not args.distributed and any(value is None for value in explicit):
        raise UsageError("--coordinator, --processes and --process belong together: give all three.")
    if args.processes is not None and not 0 <= (args.process or 0) < args.processes:
        raise UsageError(f"--process: expected 0 to {args.processes - 1}, got {args.process}.")
    import jax

    _keep_stdout_clean()
    _speak_last()
    # Or else JAX ends every process at once when one is lost, with a page of addresses instead of an error.
    jax.config.update("jax_enable_recoverability", True)
    try:
        jax.distributed.initialize(
            args.coordinator,
            args.processes,
            args.process,
            initialization_timeout=_JOINING,
            heartbeat_timeout_seconds=_HEARTBEAT,
        )
    except (RuntimeError, ValueError) as error:
        if args.coordinator is None and "coordinator_address" in str(error):
            raise UsageError(
                "--distributed: found no SLURM, Kubernetes or TPU job here. Give --coordinator HOST:PORT, "
                "--processes N and --process I."
            ) from error
        raise CnnjaxError(f"cannot join the other processes: {_first_line(error)}.") from error
    out.say(f"process {jax.process_index()} of {jax.process_count()}: {jax.local_device_count()} device(s) here")
    return out if jax.process_index() == 0 else Output(as_json=out.as_json, silent=True)


def explain(error: BaseException) -> BaseException:
    """Return what to say instead if an error means that another process has gone, else the error itself.

    Args:
      error: What a computation over all processes raised.
    """
    import jax

    if jax.process_count() == 1 or not isinstance(error, jax.errors.JaxRuntimeError):
        return error
    return LostProcessError(f"{_LOST} ({_first_line(error)})")


_LOST = (
    "another process of the run has ended or can't be reached; the last checkpoint stands: start every process again "
    "with the same command"
)
_handlers = []  # what C calls must stay alive


def _keep_stdout_clean() -> None:
    """Send what C++ prints to stderr; Python's own stdout stays where it was, for the result alone."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)


def _speak_last() -> None:
    """Let a line and an exit code be the end of it when JAX aborts because the main process has gone."""

    def aborted(number: int) -> None:
        del number
        os.write(2, f"cnnjax: {_LOST}.\n".encode())
        os._exit(1)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    _handlers.append(handler)
    # Python's own handlers run between two of its instructions, and an abort leaves no time for another one.
    ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(".")
