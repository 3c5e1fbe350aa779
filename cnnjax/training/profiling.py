"""Record what the device and the host do during some steps, to be looked at in TensorBoard or Perfetto."""

import pathlib

import jax

from cnnjax.errors import CnnjaxError
from cnnjax.training.loop import Callback, Loop


class Profile(Callback):
    """Record a window of steps.

    `tensorboard --logdir DIR` (with its profile plugin) and https://ui.perfetto.dev show what it writes.

    Args:
      directory: Where to write.
      first: Step before which recording begins, counted from 0; in a resumed run that is beyond it, at once.
      last: Step before which it ends, greater than `first`.
    """

    def __init__(self, directory: str | pathlib.Path, first: int, last: int):
        self.directory, self.first, self.last = pathlib.Path(directory), first, last
        self.running = False

    def on_start(self, loop: Loop) -> None:
        self._begin(loop)

    def on_step(self, loop: Loop) -> None:
        if self.running and loop.step >= self.last:
            jax.block_until_ready(loop.state)
            self._end()
        self._begin(loop)

    def on_close(self, loop: Loop) -> None:
        self._end()

    def _begin(self, loop: Loop) -> None:
        if self.running or not self.first <= loop.step < self.last:
            return
        try:
            jax.profiler.start_trace(self.directory, create_perfetto_trace=True)
        except (OSError, RuntimeError) as error:
            raise CnnjaxError(f"cannot record a profile in {self.directory}: {error}.") from error
        self.running = True

    def _end(self) -> None:
        if not self.running:
            return
        self.running = False
        try:
            jax.profiler.stop_trace()
        except (OSError, RuntimeError) as error:
            raise CnnjaxError(f"cannot write the profile in {self.directory}: {error}.") from error
