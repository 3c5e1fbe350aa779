"""The command line's door: parse, run one verb, turn every foreseen error into one line and an exit code."""

import argparse
import difflib
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Collection, Sequence
from types import FrameType
from typing import NoReturn

from cnnjax import __version__
from cnnjax.cli import (
    cache,
    data,
    digest,
    doctor,
    evaluate,
    export,
    pages,
    predict,
    receptive_field,
    shapes,
    summary,
    train,
    weights,
    xla,
)
from cnnjax.cli.output import Output
from cnnjax.errors import CnnjaxError, UsageError, unknown

_VERBS = (train, evaluate, predict, export, summary, receptive_field, data, weights, digest, shapes, doctor)
# What other tools call an option, where the letters do not show which one it is.
_SYNONYMS = {
    "pretrained": "--weights",
    "checkpoint": "--weights",
    "gpu": "--devices",
    "gpus": "--devices",
    "wd": "--weight-decay",
    "dropout": "--set",
    "data": "--dataset",
    "output-dir": "--workdir",
    "amp": "--precision",
}
_NEVER_MEANT = ("--help", "--json", "--debug", "--version")
# Seconds that clearing up after a signal may take.
_PATIENCE = 5.0


class _Parser(argparse.ArgumentParser):
    """Say what is wrong in one line, with the nearest option or verb, and exit with 2."""

    def error(self, message: str) -> NoReturn:
        choice = re.match(r"argument (\w+): invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if choice and choice[1] == "VERB":
            message = str(unknown("verb", choice[2], [name.strip("' ") for name in choice[3].split(",")]))
        elif message.startswith("unrecognized arguments: "):
            word = message.removeprefix("unrecognized arguments: ").split()[0]
            message = (
                f"unknown option {word.partition('=')[0]}: did you mean {_nearest(word, self._option_string_actions)}?"
            )
        ending = "" if message[-1] in ".?!" else "."
        self.exit(2, f"{self.prog}: {message}{ending} See {self.prog} --help.\n")


def _nearest(word: str, options: Collection[str]) -> str:
    """Return the option most like a word: one that it begins with or ends in, or else the one that shares most."""
    asked = word.partition("=")[0].strip("-")
    if _SYNONYMS.get(asked) in options:
        return _SYNONYMS[asked]

    def likeness(option: str) -> float:
        name = option.strip("-")
        part = (len(name) > 1 and asked.startswith(name)) or asked.endswith(f"-{name}")
        return part + difflib.SequenceMatcher(None, asked, name).ratio() + (asked[:1] == name[:1]) / 4

    return max((name for name in options if name.startswith("--") and name not in _NEVER_MEANT), key=likeness)


class _Terminated(KeyboardInterrupt):
    """SIGTERM came while no run was under way that could have been saved."""


def main() -> None:
    """Run the command line and exit with its code."""
    pages.use_large_pages()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    if "--debug" not in sys.argv:
        # `run` catches all of our own errors. What still arrives here are tracebacks of libraries' threads and of what
        # is torn down at the end; they would bury the one line that says what happened.
        sys.excepthook = sys.unraisablehook = lambda *_: None
    xla.switch_fusion_off()
    cache.switch_on()
    code = run(sys.argv[1:])
    cache.settle()
    if code >= 128:
        # Threads may still compute, and shutting the interpreter down beside them crashes.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


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
        if hasattr(args, "words") and not any(word.startswith("-") for word in rest):
            args.words, rest = [*args.words, *rest], []  # argparse stops at the first option behind a list of words
        if rest:
            args.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    except SystemExit as leave:  # --help, --version and wrong usage
        return int(leave.code or 0)
    # Libraries' own warnings would push the one line that matters off the screen.
    for library in ("absl", "matplotlib", "tensorboardX"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        return args.run(args, Output(as_json=args.json))
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  whoever read us has left; say nothing at exit either
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if args.debug:
            traceback.print_exc()
        line, code = _line_and_code(error)
        print(f"cnnjax: {' '.join(line.split())}", file=sys.stderr)  # noqa: T201
        return code


def _line_and_code(error: BaseException) -> tuple[str, int]:
    """Return what to say of an error and the exit code that goes with it."""
    if isinstance(error, KeyboardInterrupt):
        terminated = isinstance(error, _Terminated)
        return ("terminated.", 143) if terminated else ("interrupted.", 130)
    if isinstance(error, CnnjaxError):
        return str(error), 2 if isinstance(error, UsageError) else 1
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}.", 1
    return f"{type(error).__name__}: {error} (--debug shows where).", 1


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """Leave by an exception, so that half-made files are cleared away; if a library swallows it, without one."""
    timer = threading.Timer(_PATIENCE, _leave, [number])
    timer.daemon = True
    timer.start()
    raise _Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _leave(number: int) -> None:
    os.write(2, b"cnnjax: interrupted.\n")
    os._exit(128 + number)


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
