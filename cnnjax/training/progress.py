"""What a person sees of a run: a live line on a terminal, plain lines elsewhere."""

import sys
import time
from typing import IO, Any

from cnnjax.training.loop import Callback, Loop

# A terminal's line is drawn anew this often; a plain line within an epoch comes this often. Seconds.
_REDRAW, _PLAIN = 0.25, 30.0


class Progress(Callback):
    """Show epoch, step, loss, accuracy, images a second and the time left.

    Args:
      file: Where to write; stdout by default.
      epoch_steps: Steps of an epoch, for the time left within the first one; measured from then on.
    """

    def __init__(self, file: IO[str] | None = None, *, epoch_steps: int | None = None):
        self.file = file if file is not None else sys.stdout
        self.epoch_steps = epoch_steps
        self.live: Any = None

    def on_start(self, loop: Loop) -> None:
        self.began: float | None = None
        self.compiled_in_epoch = True
        self.steps = 0
        self.last_step = 0.0
        if self.file.isatty():
            from rich.console import Console
            from rich.live import Live

            # Not its own thread: a redraw then never runs beside a step on a small machine.
            self.live = Live(console=Console(file=self.file), auto_refresh=False, transient=True)
            self.live.start()

    def on_step(self, loop: Loop) -> None:
        now = time.monotonic()
        if self.began is None:  # the first step is the compiler's, and no measure of the others
            loop.flush()
            self.began = self.drawn = self.last_step = time.monotonic()
            return
        self.steps += 1
        self.last_step = now
        if now - self.drawn < (_REDRAW if self.live else _PLAIN):
            return
        self.drawn = now
        loop.poll()
        line = self._running(loop)
        if self.live:
            from rich.text import Text

            self.live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)
        else:
            self._print(line)

    def on_epoch(self, loop: Loop) -> None:
        row, rows = loop.history[-1], loop.history
        self.epoch_steps = row["step"] - (rows[-2]["step"] if len(rows) > 1 else 0)
        line = f"epoch {loop.epoch:{len(str(loop.epochs))}d}/{loop.epochs} step {row['step']}: "
        parts = [f"loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.2%}"]
        if "val_loss" in row:
            parts.append(f"val {row['val_loss']:.4f} {row['val_accuracy']:.2%}")
        if "skipped" in row:
            parts.append(f"{row['skipped']} steps skipped")
        parts.append(f"{row['images_per_second']:,.0f} images/s" + (" (compiling)" if self.compiled_in_epoch else ""))
        # The pace of the first epoch ends with its last step: what follows compiles the evaluation.
        left = self._left(loop, self.last_step if self.compiled_in_epoch else time.monotonic())
        self._print(line + ", ".join(parts + ([f"{left} left"] if left else [])))
        if self.compiled_in_epoch and self.began is not None:
            self.began, self.steps = time.monotonic(), 0
        self.compiled_in_epoch = False

    def on_end(self, loop: Loop) -> None:
        if loop.stopped and not loop.interrupted:  # whoever interrupted it says so himself
            self._print(f"stopped: {loop.stopped}")

    def on_close(self, loop: Loop) -> None:
        if self.live:
            self.live.stop()
            self.live = None

    def _running(self, loop: Loop) -> str:
        line = f"epoch {loop.epoch + 1}/{loop.epochs} step {loop.batch}"
        line += f"/{self.epoch_steps}: " if self.epoch_steps else ": "
        parts = []
        if loop.metrics is not None and loop.metrics.count:
            parts.append(f"loss {loop.metrics.loss:.4f} accuracy {loop.metrics.accuracy:.2%}")
            if self.steps and self.began is not None:
                rate = loop.metrics.examples / loop.counted * self.steps / (time.monotonic() - self.began)
                parts.append(f"{rate:,.0f} images/s")
        left = self._left(loop, time.monotonic())
        return line + ", ".join(parts + ([f"{left} left"] if left else []))

    def _left(self, loop: Loop, now: float) -> str:
        """Return the time left, from this process's own pace until now, or nothing when it can't be known."""
        if not self.epoch_steps or not self.steps or self.began is None:
            return ""
        steps_left = (loop.epochs - loop.epoch) * self.epoch_steps - loop.batch
        seconds = round((now - self.began) / self.steps * max(steps_left, 0))
        minutes, seconds = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

    def _print(self, line: str) -> None:
        if self.live:
            self.live.console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            print(line, file=self.file, flush=True)
