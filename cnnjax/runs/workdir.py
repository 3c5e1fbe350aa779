"""A run's folder: who holds it, what it was started with, where things lie in it, and how it ended."""

import contextlib
import itertools
import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cnnjax import files
from cnnjax.errors import CnnjaxError, UsageError
from cnnjax.files import Lock
from cnnjax.runs.environment import environment
from cnnjax.runs.storage import checkpoint_dirs, is_final

_LONG = 120  # characters of two values that a person takes in at a glance


class Workdir:
    """Hold a run's folder, for this process alone until `close`.

    Args:
      path: The folder; made if it does not exist.
    Raises:
      CnnjaxError: If it cannot be made or written.
      UsageError: If another process holds it.
    """

    def __init__(self, path: str | pathlib.Path):
        self.path = pathlib.Path(path)
        self._lock: Lock | None = None
        try:
            files.make_folder(self.path)
            self._lock = Lock(self.path)
            if self._lock.refusal is not None and self.result is None:  # to say what was found, nothing is written
                raise self._lock.refusal
        except OSError as error:
            self.close()
            raise CnnjaxError(f"cannot write the workdir {self.path}: {error.strerror}.") from error
        except CnnjaxError:
            self.close()
            raise

    @property
    def checkpoints(self) -> pathlib.Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def result(self) -> dict[str, Any] | None:
        """What the finished run found, or None while it is not finished."""
        return _read_json(self.path / "result.json")

    def compare(
        self,
        config: Mapping[str, Any],
        *,
        devices: int | None = None,
        renamed: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> list[str]:
        """Compare what a run is to be made of with what the folder's run was made of."""
        recorded = _read_run(self.path)
        if recorded is None:
            return []
        self._refuse(_differences(renamed(recorded["config"]), _as_json(config)))
        changed = _differences(recorded["environment"], environment(devices))
        return [f"changed since the run began: {c}: it is no longer bit for bit the uninterrupted one" for c in changed]

    @property
    def ended(self) -> bool:
        """Whether the run has come to its end, its result written or not."""
        return self.result is not None or any(map(is_final, checkpoint_dirs(self.checkpoints)))

    def epochs_to_extend(
        self, config: Mapping[str, Any], renamed: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
    ) -> int | None:
        """Return how many epochs the folder's run was made for, where `config` wants more and nothing else of it."""
        recorded = _read_run(self.path)
        if recorded is None:
            return None
        before, now = renamed(recorded["config"]), _as_json(config)
        same = not _differences({**before, "epochs": 0}, {**now, "epochs": 0})
        return before["epochs"] if same and 0 < before.get("epochs", 0) < now["epochs"] else None

    def extend(self, epochs: int) -> None:
        """Record that the run is to have more epochs; what it had found before them is its result no more."""
        recorded = _read_run(self.path)
        assert recorded is not None
        (self.path / "result.json").unlink(missing_ok=True)  # first: a crash in between leaves a run to be extended
        files.sync_folder(self.path)
        self.write_json("run.json", {**recorded, "config": {**recorded["config"], "epochs": epochs}})

    def record(
        self,
        config: Mapping[str, Any],
        data: Mapping[str, Any],
        *,
        devices: int | None = None,
        files: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Write down what the run is made of, or refuse other data than the folder's run had."""
        recorded = _read_run(self.path)
        if recorded is not None:
            self._refuse(_differences(recorded["data"], {**_as_json(data), "source": recorded["data"].get("source")}))
            return
        if files is not None:
            self.write_json("splits.json", files)
        self.write_json("run.json", {"config": config, "environment": environment(devices), "data": data})

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write what the finished run found."""
        self.write_json("result.json", result)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file whole or not at all; a number that is none is refused."""
        files.write_text(self.path / name, json.dumps(value, indent=2, allow_nan=False) + "\n")

    def discard_if_empty(self) -> None:
        """Remove the folder if a run never began in it: nothing is there but the lock."""
        if [entry.name for entry in self.path.iterdir()] == [files.LOCK_NAME]:
            (self.path / files.LOCK_NAME).unlink()
            self.path.rmdir()

    def close(self) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> "Workdir":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _refuse(self, differences: list[str]) -> None:
        if differences:
            raise UsageError(
                f"the workdir {self.path} holds a run with another configuration: {'; '.join(differences)}. "
                "Take another --workdir, or the run's own settings."
            )


def read_run(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the run in a folder was started with: its configuration and its data's description.

    Args:
      path: The workdir; it is not locked.
    Raises:
      CnnjaxError: If the folder holds no run.
    """
    run = _read_run(path)
    if run is None:
        raise CnnjaxError(f"no run in {path}: expected a run.json there, as `cnnjax train --workdir` makes it.")
    return run["config"], run["data"]


def default_workdir(model: str, dataset: str) -> pathlib.Path:
    """Make a new folder below `runs`, named after the run and the time.

    Args:
      model: MODEL as the user wrote it.
      dataset: Name of the dataset, likewise.
    Returns:
      The folder.
    Raises:
      CnnjaxError: If it cannot be made.
    """
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in f"{model}-{dataset}").strip("-")
    stem = pathlib.Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    path = stem
    try:
        files.make_folder(stem.parent)
        for number in itertools.count():
            path = stem if number == 0 else stem.with_name(f"{stem.name}-{number}")
            with contextlib.suppress(FileExistsError):  # another run began within the second
                path.mkdir()
                files.sync_folder(path.parent)
                return path
    except OSError as error:
        raise CnnjaxError(f"cannot write the workdir {path}: {error.strerror}. Give a --workdir.") from error
    raise AssertionError  # never: the numbers do not end


def _read_run(path: pathlib.Path) -> dict[str, Any] | None:
    run = _read_json(path / "run.json")
    if run is not None and not {"config", "environment", "data"} <= run.keys():
        raise CnnjaxError(f"{path / 'run.json'} is damaged: it does not say what the run was made of.")
    return run


def _read_json(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CnnjaxError(f"cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise CnnjaxError(f"cannot read {path}: {error}.") from error


def _as_json(value: Any) -> Any:
    """Return what reading the value back from JSON gives: lists for tuples."""
    return json.loads(json.dumps(value))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [_difference(name, repr(before.get(name)), repr(now.get(name))) for name in names]


def _difference(name: str, before: str, now: str) -> str:
    if len(before) + len(now) > _LONG:
        same = os.path.commonprefix([before, now])  # noqa: RUF071  of any texts, not of paths
        start = max(len(same) - _LONG // 8, 0)
        before, now = (_cut(text, start) for text in (before, now))
    return f"{name} {before} there, {now} here"


def _cut(text: str, start: int) -> str:
    """Return the piece of a long text where it begins to differ from another."""
    end = start + _LONG // 2
    return f"{'...' if start else ''}{text[start:end]}{'...' if end < len(text) else ''}"
