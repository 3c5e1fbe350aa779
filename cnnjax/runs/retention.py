"""Which checkpoints stay: the newest, the best, and every damaged one, which is nobody's to delete but a person's."""

import logging
import math
import pathlib
from dataclasses import dataclass
from typing import Any

from cnnjax.errors import UsageError
from cnnjax.runs import storage
from cnnjax.runs.storage import CheckpointError

log = logging.getLogger("cnnjax")

# Every file's size, time and place on the disk: equal ones have not been written to since.
_Signature = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True)
class Best:
    """The column of the history by which the best checkpoint is known."""

    monitor: str
    mode: str = "auto"

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "min", "max"):
            raise UsageError(f"keep_best: expected mode auto, min or max, got {self.mode!r}.")

    def cost(self, position: dict[str, Any]) -> float:
        """Return a number that is smaller for a better checkpoint, infinite for one that no epoch ended with."""
        rows = position.get("history") or [{}]
        if position.get("batch") or rows[-1].get("step") != position.get("step"):
            return math.inf
        value = rows[-1].get(self.monitor)
        if value is None or math.isnan(value):
            return math.inf
        largest = self.monitor.endswith(("accuracy", "top5")) if self.mode == "auto" else self.mode == "max"
        return -float(value) if largest else float(value)


class CheckpointRetention:
    """The checkpoints of a folder: which are whole, and which are to stay; the others are taken away.

    A checkpoint is read in full once, and again only after something has written to it.
    """

    def __init__(self, directory: pathlib.Path, keep: int, best: Best | None = None):
        self.directory, self.keep, self.best = directory, keep, best
        self._seen: dict[str, tuple[_Signature, float | None]] = {}

    def whole(self, *, beyond: int = -1) -> list[pathlib.Path]:
        """Return the whole checkpoints of steps beyond one, oldest first; the others are not read."""
        found = storage.checkpoint_dirs(self.directory)
        return [path for path in found if storage.step_of(path) > beyond and self._cost(path) is not None]

    def lowest_cost(self) -> float:
        """Return the best checkpoint's cost, infinite without one."""
        return min(self._costs().values(), default=math.inf)

    def prune(self) -> None:
        """Remove every whole checkpoint that is neither among the newest nor the best; failures are only logged."""
        costs = self._costs()
        whole = list(costs)
        stay = set(whole[-self.keep :])
        if self.best is not None and whole:
            best = min(whole, key=costs.__getitem__)  # the first of equals
            stay |= {best} if costs[best] < math.inf else set()
        for path in whole:
            if path not in stay:
                try:
                    storage.remove(path)
                except OSError as error:
                    log.warning("could not remove the old checkpoint %s: %s", path, error.strerror)

    def _costs(self) -> dict[pathlib.Path, float]:
        """Return the whole checkpoints, oldest first, each with its cost."""
        found = {path: self._cost(path) for path in storage.checkpoint_dirs(self.directory)}
        self._seen = {path.name: self._seen[path.name] for path in found if path.name in self._seen}
        return {path: cost for path, cost in found.items() if cost is not None}

    def _cost(self, path: pathlib.Path) -> float | None:
        """Return a checkpoint's cost, None for a damaged one, which is named once."""
        signature = _signature(path)
        if self._seen.get(path.name, (None,))[0] == signature:
            return self._seen[path.name][1]
        cost: float | None
        try:
            position = storage.load(path)[1]
            # What early stopping may have put back at the end is not what the last epoch ended with.
            cost = math.inf if self.best is None or storage.is_final(path) else self.best.cost(position)
        except CheckpointError as error:
            cost = None
            log.warning("%s It stays, and is not counted among the checkpoints to keep.", error)
        self._seen[path.name] = signature, cost
        return cost


def _signature(path: pathlib.Path) -> _Signature:
    try:
        files = sorted(path.iterdir())
        status = [(file.name, file.stat()) for file in files]
    except OSError:
        return ()
    return tuple((name, s.st_size, s.st_mtime_ns, s.st_ino) for name, s in status)
