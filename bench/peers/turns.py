"""A worker's side of taking turns: wait for a line on stdin, train an epoch, report a line of JSON on stdout.

Only the standard library, since workers run in environments that share nothing else.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable

# A turn lasts at least this long, seconds: caches and threads that the peer before left behind must not weigh.
TURN = 0.2


class Turns:
    """Talk to the process that started this one; whatever else is printed on stdout is thrown away."""

    def __init__(self):
        self._out = os.fdopen(os.dup(1), "w")
        # Progress bars are drawn in full, as for anybody who runs `fit`, for nobody to see.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
        self.begin = 0.0

    def wait(self) -> None:
        """Wait for the next turn and start its clock; end the process when there is none."""
        if not sys.stdin.readline():
            raise SystemExit
        self.begin = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time since the turn began."""
        return time.perf_counter() - self.begin

    def repeat(self, step: Callable[[], object], least: float = TURN) -> tuple[float, int]:
        """Call `step` until the turn is `least` seconds old; return the seconds of a call and how many there were."""
        number = 0
        while number == 0 or self.seconds < least:
            step()
            number += 1
        return self.seconds / number, number

    def serve(self, step: Callable[[], object], images: int, **hello: object) -> None:
        """Report `hello`, then in each turn call `step`, which takes so many images, and report how long it took."""
        self.report(**hello)
        while True:
            self.wait()
            seconds, steps = self.repeat(step)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            self.report(seconds=seconds, steps=steps, images=images, peak_mb=peak / 1024)

    def report(self, **values: object) -> None:
        """Send a record."""
        print(json.dumps(values), file=self._out, flush=True)
