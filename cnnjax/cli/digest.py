"""`cnnjax digest`: the sha256 of every leaf of a checkpoint."""

import argparse
import pathlib
from typing import Any

from cnnjax.cli.output import Output


def add_parser(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser("digest", parents=[common], help="sha256 of every leaf of a checkpoint")
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("directory", type=pathlib.Path, metavar="DIR", help="a workdir, or one checkpoint in it")


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the digest of each leaf and of all of them."""
    from cnnjax.runs import digest_directory

    result = digest_directory(args.directory)
    for line in result.get("damaged", ()):
        out.say(f"warning: {line}")
    lines = [f"{value}  {name}" for name, value in result["leaves"].items()]
    out.result(result, [*lines, f"{result['digest']}  {result['checkpoint']}"])
    return 0
