"""Ctrl-C and SIGTERM end a run between two steps; several processes after the same one, or none could save it."""

import os
import signal
import time
from types import FrameType
from typing import Any

import numpy as np

from cnnjax import hosts
from cnnjax.training import Callback, Loop

# Asking all processes waits for the slowest and empties the devices' queues: about this often, seconds, and at most
# so many steps apart.
_PERIOD, _MOST_STEPS = 1.0, 256


class StopOnSignal(Callback):
    """Stop the loop after the step under way when the process is told to end; a second signal ends it at once.

    After the run `received` is the signal's number, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def on_start(self, loop: Loop) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._receive)

    def on_step(self, loop: Loop) -> None:
        if self.received is not None:
            loop.stop(f"by {signal.Signals(self.received).name}", now=True)

    def on_epoch(self, loop: Loop) -> None:
        self.on_step(loop)

    def on_close(self, loop: Loop) -> None:
        self._give_back()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
            self._tell("stopping after this step and saving; once more leaves at once, without saving")
            return
        self._tell("left without saving: the last checkpoint is where the same command goes on")
        # Not an exception: the interpreter would shut down beside threads that still compute, and crash.
        os._exit(128 + number)

    def _tell(self, line: str) -> None:
        # Straight to the file: a handler may run in the midst of a buffered write.
        os.write(2, f"cnnjax: {line}.\n".encode())

    def _give_back(self) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous = {}


class AgreedStopOnSignal(StopOnSignal):
    """Stop every process after the same step when any of them is told to end.

    After the run `received` is the signal's number, on every process, or None.
    """

    def on_start(self, loop: Loop) -> None:
        super().on_start(loop)
        self.every = 1
        self.next = loop.step + 1
        self.asked = time.monotonic()

    def on_step(self, loop: Loop) -> None:
        if loop.step < self.next:
            return
        own = [float(self.received or 0), time.monotonic() - self.asked]
        gathered = hosts.gather(np.array(own, np.float32))
        self.asked = time.monotonic()
        # By the main process's clock, so that all of them ask again after the same step.
        pace = _PERIOD / max(float(gathered[0, 1]), 1e-6)
        self.every = int(min(max(self.every * min(pace, 4.0), 1), _MOST_STEPS))
        self.next = loop.step + self.every
        number = int(gathered[:, 0].max())
        if number:
            self.received = number
            super().on_step(loop)

    def on_epoch(self, loop: Loop) -> None:
        """Wait for the next step at which all ask: an epoch's end is none of its own."""

    def on_end(self, loop: Loop) -> None:
        # A signal after the last question: one process alone would leave, and the others wait for it in the test.
        self.received = int(hosts.gather(np.array([self.received or 0], np.float32)).max()) or None
