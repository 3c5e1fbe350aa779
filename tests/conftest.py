"""Every test runs with warnings as errors and without silent rank promotion; equal programs compile once a worker."""

import pathlib
import shutil
import tempfile

import jax
import pytest
from hypothesis import settings

# Every new shape is a compile, so few examples; the same ones each time, so that a red run can be repeated.
settings.register_profile("quick", deadline=None, max_examples=15, derandomize=True, print_blob=True)
settings.register_profile("full", settings.get_profile("quick"), max_examples=50)
settings.load_profile("quick")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full", action="store_true", help="kill a run 20 times, compare deep nets too, draw more examples"
    )
    parser.addoption("--record-skipped", metavar="FILE", help="write the ids of skipped tests, for pytest @FILE")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--full"):
        settings.load_profile("full")
    config.addinivalue_line("filterwarnings", "error")
    # Other libraries' own use of what Python or NumPy is about to drop is not ours to mend.
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:(?!cnnjax)")
    # Most of the tests' time is compiling, and half of it the same programs from closures that JAX can't know equal.
    # Each worker has a folder of its own: JAX writes these files in place, and another process could read half of one.
    folder = tempfile.mkdtemp(prefix="cnnjax-compiled-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Write which tests were skipped, so that they can be run where what they need is installed."""
    if file := config.getoption("--record-skipped"):
        skipped = {report.nodeid for report in terminalreporter.stats.get("skipped", [])}
        pathlib.Path(file).write_text("".join(f"{test}\n" for test in sorted(skipped)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Keep each file's tests in one worker, where its fixtures and compiled programs are."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the files of few tests, which are the long ones, so that no worker is left with one at the end."""
    if not config.getoption("--full"):
        rest = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=rest)
        items[:] = [item for item in items if item not in rest]
    count: dict[str, int] = {}
    for item in items:
        count[item.nodeid.split("::")[0]] = count.get(item.nodeid.split("::")[0], 0) + 1
    items.sort(key=lambda item: count[item.nodeid.split("::")[0]])


@pytest.hookimpl(tryfirst=True)  # before fixtures of any scope, so that a module's are compiled as its tests
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Compile without most optimisations where much is compiled and little computed, which saves half of it.

    Ops, training, the command line and everything slow are compiled as users have them.
    """
    folders = ("layers", "models", "pretrained", "data", "receptive_field")
    quick = item.path.parent.name in folders and item.get_closest_marker("slow") is None
    jax.config.update("jax_disable_most_optimizations", quick)


@pytest.fixture
def strict_dtypes():
    """Refuse silent dtype promotion, for our own ops, models and losses (optax does not survive it)."""
    with jax.numpy_dtype_promotion("strict"):
        yield
