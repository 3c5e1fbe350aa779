"""One piece of work at a time, done in the background, whose failure is never missed."""

import threading
from collections.abc import Callable


class Writer:
    """Do one piece of work at a time in a thread; what it raises is raised where the next thing is asked of it."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def submit(self, work: Callable[[], object]) -> None:
        """Begin some work, after what is under way has ended.

        Args:
          work: Called without arguments, in a thread of its own.
        Raises:
          BaseException: What the work before has raised; the new one is then not begun.
        """
        self.wait()
        # Not a daemon: an interpreter that ends by itself lets it finish.
        self._thread = threading.Thread(target=self._do, args=(work,), name="cnnjax-checkpoint")
        self._thread.start()

    def check(self) -> None:
        """Raise what work has raised by now, once; never wait."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self) -> None:
        """Wait until the work under way has ended, and raise what it has raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _do(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error
