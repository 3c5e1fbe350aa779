"""One uninterrupted run, to which the interrupted ones are held, and processes that make such a run."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.runs import worker

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """The workdir of a run that nothing interrupted."""
    path = tmp_path_factory.mktemp("uninterrupted") / "run"
    worker.go(path)
    return path


@pytest.fixture(scope="session")
def spawn(tmp_path_factory):
    """Return a function that starts a worker with some words; the processes share what they have compiled."""
    cache = str(tmp_path_factory.mktemp("compiled"))
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

    def start(*words):
        command = [sys.executable, "-m", "tests.runs.worker", *map(str, words)]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)

    return start
