"""Every test runs with warnings as errors and without silent rank promotion."""

import jax
import pytest
from hypothesis import settings

# Every new shape is a compile, so few examples; the same ones each time, so that a red run can be repeated.
settings.register_profile("cnnjax", deadline=None, max_examples=25, derandomize=True, print_blob=True)
settings.load_profile("cnnjax")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "error")
    # Other libraries' own use of what Python or NumPy is about to drop is not ours to mend.
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:(?!cnnjax)")


@pytest.fixture
def strict_dtypes():
    """Refuse silent dtype promotion, for our own ops, models and losses (optax does not survive it)."""
    with jax.numpy_dtype_promotion("strict"):
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="kill a run 20 times instead of 5")
