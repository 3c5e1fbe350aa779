import os

import pytest

from cnnjax.cli.main import run
from tests.cli.commands import TRAIN


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Where commands in processes of their own keep compiled programs; shared by all workers."""
    base = tmp_path_factory.getbasetemp()
    return str((base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "compiled")


@pytest.fixture(autouse=True)
def _own_data_dir(data_dir, compiled, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", data_dir)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", compiled)
    # Unset, a command in a process of its own would switch an XLA fusion off that is on in this one: other bits.
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))


@pytest.fixture(scope="session")
def workdir(tmp_path_factory, data_dir):
    """A finished run of two epochs, shared by the tests that only read it."""
    path = tmp_path_factory.mktemp("runs") / "digits"
    os.environ["TFDS_DATA_DIR"] = data_dir
    assert run([*TRAIN, "--workdir", str(path), "--json"]) == 0
    return path
