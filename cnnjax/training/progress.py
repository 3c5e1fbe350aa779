"""What a person sees of a run: a live bar in a terminal or a notebook, plain lines elsewhere."""

import html
import sys
import time
from typing import IO, Any

from cnnjax.training.loop import Callback, Loop

# What is live is drawn anew this often; a plain line within an epoch comes this often. Seconds.
_REDRAW, _PLAIN = 0.25, 30.0


class Progress(Callback):
    """A live view of a run: epoch, step, loss, accuracy, validation, images a second and the time left.

    Args:
      file: Where to write; stdout, or a notebook's output, by default.
      epoch_steps: Steps of an epoch, for the bar and the time left within the first one; measured from then on.
    """

    def __init__(self, file: IO[str] | None = None, *, epoch_steps: int | None = None):
        self.in_notebook = file is None and _in_notebook()
        self.file = file if file is not None else sys.stdout
        self.epoch_steps = epoch_steps
        self.live: _Terminal | _Notebook | None = None

    def on_start(self, loop: Loop) -> None:
        self.began: float | None = None
        self.compiled_in_epoch = True
        self.steps = 0
        self.last_step = 0.0
        if self.in_notebook or self.file.isatty():
            self.live = _Notebook() if self.in_notebook else _Terminal(self.file)
            self.live.show([f"epoch {loop.epoch + 1}/{loop.epochs}: compiling ..."], 0, self.epoch_steps)

    def on_step(self, loop: Loop) -> None:
        now = time.monotonic()
        if self.began is None:  # the first step is the compiler's, and no measure of the others
            loop.flush()
            self.began = self.drawn = self.last_step = time.monotonic()
            if self.live:
                self.live.show(self._running(loop), loop.batch, self.epoch_steps)
            return
        self.steps += 1
        self.last_step = now
        if now - self.drawn < (_REDRAW if self.live else _PLAIN):
            return
        self.drawn = now
        loop.poll()
        words = self._running(loop)
        if self.live:
            self.live.show(words, loop.batch, self.epoch_steps)
        else:
            self._print(words)

    def on_epoch(self, loop: Loop) -> None:
        row, rows = loop.history[-1], loop.history
        self.epoch_steps = row["step"] - (rows[-2]["step"] if len(rows) > 1 else 0)
        words = [f"epoch {loop.epoch:{len(str(loop.epochs))}d}/{loop.epochs} step {row['step']}: {_scores(row)}"]
        words += [f"val {row['val_loss']:.4f}{_percent(row, 'val_accuracy')}"] if "val_loss" in row else []
        words += [f"{row['skipped']} steps skipped"] if "skipped" in row else []
        words.append(f"{row['images_per_second']:,.0f} images/s" + (" (compiling)" if self.compiled_in_epoch else ""))
        # The pace of the first epoch ends with its last step: what follows compiles the evaluation.
        self._print(words + self._left(loop, self.last_step if self.compiled_in_epoch else time.monotonic()))
        if self.compiled_in_epoch and self.began is not None:
            self.began, self.steps = time.monotonic(), 0
        self.compiled_in_epoch = False

    def on_end(self, loop: Loop) -> None:
        if loop.stopped and not loop.interrupted:  # whoever interrupted it says so himself
            self._print([f"stopped: {loop.stopped}"])

    def on_close(self, loop: Loop) -> None:
        if self.live:
            self.live.close()
            self.live = None

    def _running(self, loop: Loop) -> list[str]:
        head = f"epoch {loop.epoch + 1}/{loop.epochs} step {loop.batch}"
        head += f"/{self.epoch_steps}:" if self.epoch_steps else ":"
        if loop.metrics is None or not loop.metrics.count:
            return [head, *self._left(loop, time.monotonic())]
        words = [f"{head} {_scores({f'train_{k}': v for k, v in loop.metrics.compute().items()})}"]
        if len(loop.history) and "val_loss" in loop.history[-1]:
            row = loop.history[-1]
            words.append("val" + (_percent(row, "val_accuracy") or f" {row['val_loss']:.4f}"))
        if self.steps and self.began is not None:
            rate = loop.metrics.examples / loop.counted * self.steps / (time.monotonic() - self.began)
            words.append(f"{rate:,.0f} images/s")
        return words + self._left(loop, time.monotonic())

    def _left(self, loop: Loop, now: float) -> list[str]:
        """Return the time left, from this process's own pace until now, or nothing when it can't be known."""
        if not self.epoch_steps or not self.steps or self.began is None:
            return []
        steps_left = (loop.epochs - loop.epoch) * self.epoch_steps - loop.batch
        seconds = round((now - self.began) / self.steps * max(steps_left, 0))
        minutes, seconds = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        return [f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left"]

    def _print(self, words: list[str]) -> None:
        if self.live:
            self.live.print(words)
        else:
            print(", ".join(words), file=self.file, flush=True)


class _Terminal:
    """A line and a bar under it, below the lines of the epochs that are over."""

    def __init__(self, file: IO[str]):
        from rich.console import Console
        from rich.live import Live

        # Not its own thread: a redraw then never runs beside a step on a small machine.
        self.live = Live(console=Console(file=file), auto_refresh=False, transient=True)
        self.live.start()

    def show(self, words: list[str], done: int, total: int | None) -> None:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        text = Text(_fit(words, self.live.console.width), no_wrap=True, overflow="ellipsis")
        self.live.update(Group(text, ProgressBar(total, min(done, total))) if total else text, refresh=True)

    def print(self, words: list[str]) -> None:
        line = _fit(words, self.live.console.width)
        self.live.console.print(line, highlight=False, markup=False)

    def close(self) -> None:
        self.live.stop()


class _Notebook:
    """A bar and a line under it in a cell's output, below the lines of the epochs that are over."""

    def __init__(self) -> None:
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

        self.html, self.lines = HTML, []
        self.handle = display(HTML(""), display_id=True)

    def show(self, words: list[str], done: int, total: int | None) -> None:
        bar = f'<progress value="{min(done, total)}" max="{total}" style="width: 40em"></progress><br>' if total else ""
        self._draw(f"{bar}<code>{html.escape(', '.join(words))}</code>")

    def print(self, words: list[str]) -> None:
        self.lines.append(html.escape(", ".join(words)))
        self._draw("")

    def close(self) -> None:
        self._draw("")

    def _draw(self, below: str) -> None:
        self.handle.update(self.html("".join(f"<code>{line}</code><br>" for line in self.lines) + below))


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def _fit(words: list[str], width: int) -> str:
    """Return the words as one line, without those in the middle that it has no room for."""
    words = list(words)
    while len(words) > 2 and len(", ".join(words)) > width:
        words.pop(-2)  # the time left, which is last, is what people look for
    return ", ".join(words if len(", ".join(words)) <= width else words[:1])


def _scores(row: dict[str, Any]) -> str:
    accuracy = " accuracy" + _percent(row, "train_accuracy") if "train_accuracy" in row else ""
    return f"loss {row['train_loss']:.4f}{accuracy}"


def _percent(row: dict[str, Any], name: str) -> str:
    return f" {row[name]:.2%}" if name in row else ""
