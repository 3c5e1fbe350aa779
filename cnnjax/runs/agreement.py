"""Signals that reach one of several processes: all of them stop after the same step, or none could save it."""

import time

import numpy as np

from cnnjax import hosts
from cnnjax.runs.signals import StopOnSignal
from cnnjax.training import Loop

# Asking all processes waits for the slowest and empties the devices' queues: about this often, seconds, and at most
# so many steps apart.
_PERIOD, _MOST_STEPS = 1.0, 256


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
