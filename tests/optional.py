"""Libraries that not every machine has: a test that uses one skips itself there, and says so."""

import pytest


class Optional:
    """A module that is imported when a test first asks it for something."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, attribute):
        if attribute.startswith("_"):  # what pytest asks every object of a test module
            raise AttributeError(attribute)
        return getattr(pytest.importorskip(self._name, reason=f"needs {self._name}"), attribute)


torch = Optional("torch")
