"""Where a verb's words go: to stdout, or with --json to stderr, so that stdout holds one JSON object."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import IO, Any


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Return rows of cells as aligned lines.

    Args:
      rows: All with as many cells.
      right: Columns whose cells end in one line.
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            cell.rjust(width) if at in right else cell.ljust(width) for at, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]


@dataclasses.dataclass
class Output:
    """Hold how a verb speaks.

    Args:
      as_json: Whether stdout is for the result alone.
      silent: Whether to say nothing at all, as all but one of several processes do.
    """

    as_json: bool = False
    silent: bool = False

    @property
    def words(self) -> IO[str]:
        """The stream for everything that is not the result."""
        return sys.stderr if self.as_json else sys.stdout

    def say(self, line: str) -> None:
        """Print a line for a person."""
        if not self.silent:
            print(line, file=self.words, flush=True)

    def result(self, result: dict[str, Any], lines: list[str]) -> None:
        """Print what the verb found: as JSON, or the lines for a person."""
        if self.silent:
            return
        if self.as_json:
            print(json.dumps(result), flush=True)  # noqa: T201
        else:
            for line in lines:
                self.say(line)
