"""Joining the other processes of a run, and leaving it when one of them has gone."""

import argparse
import os

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

    try:
        jax.distributed.initialize(
            args.coordinator,
            args.processes,
            args.process,
            initialization_timeout=_JOINING,
            heartbeat_timeout_seconds=_HEARTBEAT,
        )
    except (RuntimeError, ValueError) as error:
        raise CnnjaxError(f"cannot join the other processes: {_first_line(error)}.") from error
    out.say(f"process {jax.process_index()} of {jax.process_count()}: {jax.local_device_count()} device(s) here")
    return out if jax.process_index() == 0 else Output(as_json=out.as_json, silent=True)


def lost(error: BaseException) -> LostProcessError | None:
    """Return what to say if an error means that another process has gone, else None.

    Args:
      error: What a computation over all processes raised.
    """
    import jax

    if jax.process_count() == 1 or not isinstance(error, jax.errors.JaxRuntimeError):
        return None
    return LostProcessError(
        f"another process of the run has ended or can't be reached ({_first_line(error)}). The last checkpoint stands: "
        "start every process again with the same command."
    )


def leave(code: int) -> None:
    """End the process without waiting for the others, as a clean shutdown would.

    Args:
      code: The exit code.
    """
    os._exit(code)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(".")
