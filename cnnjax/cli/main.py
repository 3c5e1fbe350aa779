"""The command line's door: parse, run one verb, turn every foreseen error into one line and an exit code."""

import argparse
import difflib
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from cnnjax import __version__
from cnnjax.cli import data, digest, evaluate, predict, train
from cnnjax.cli.output import Output
from cnnjax.errors import CnnjaxError, UsageError

_VERBS = (train, evaluate, predict, data, digest)


class _Parser(argparse.ArgumentParser):
    """Say what is wrong in one line, with the nearest option, and exit with 2."""

    def error(self, message: str) -> NoReturn:
        words = message.removeprefix("unrecognized arguments: ").split()
        if words and message.startswith("unrecognized"):
            near = difflib.get_close_matches(words[0], self._option_string_actions, n=1)
            message = f"unknown option {words[0]}" + (f": did you mean {near[0]}?" if near else ".")
        self.exit(2, f"{self.prog}: {message} See {self.prog} --help.\n")


def main() -> None:
    """Run the command line and exit with its code."""
    if "--debug" not in sys.argv:
        # `run` catches all of our own errors. What still arrives here are tracebacks that a storage library's threads
        # print while a failed save winds up; they would bury the one line that says what happened.
        sys.excepthook = sys.unraisablehook = lambda *_: None
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
      arguments: The words after `cnnjax`.
    Returns:
      The exit code: 0 done, 1 the work failed, 2 wrong usage, 130 and 143 stopped by a signal.
    """
    parser = _parser()
    try:
        args, rest = parser.parse_known_args(arguments)
        if rest:
            args.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    except SystemExit as leave:  # --help, --version and wrong usage
        return int(leave.code or 0)
    # Libraries' own warnings would push the one line that matters off the screen.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    out = Output(as_json=args.json)
    try:
        return args.run(args, out)
    except KeyboardInterrupt:
        return _fail("interrupted.", 130, args.debug)
    except UsageError as error:
        return _fail(str(error), 2, args.debug)
    except CnnjaxError as error:
        return _fail(str(error), 1, args.debug)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  whoever read us has left; say nothing at exit either
        return 1
    except OSError as error:
        return _fail(f"{error.filename or 'the system'}: {error.strerror or error}.", 1, args.debug)
    except Exception as error:
        line = " ".join(str(error).split())
        return _fail(f"{type(error).__name__}: {line} (--debug shows where).", 1, args.debug)


def _fail(line: str, code: int, debug: bool) -> int:
    """Print one line, whatever the message holds; called while the error is being handled."""
    if debug:
        raise
    print(f"cnnjax: {' '.join(line.split())}", file=sys.stderr)  # noqa: T201
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="cnnjax", description="Convolutional networks in JAX: train, evaluate, predict.")
    parser.add_argument("--version", action="version", version=f"cnnjax {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=_Parser)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object on stdout; the rest goes to stderr")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    for verb in _VERBS:
        verb.add_parser(verbs, common)
    return parser
