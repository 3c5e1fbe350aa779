"""Ctrl-C and SIGTERM end a run between two steps instead of in the middle of one."""

import os
import signal
from types import FrameType
from typing import Any

from cnnjax.training import Callback, Loop


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
