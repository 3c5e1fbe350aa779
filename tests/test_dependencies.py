"""What the package and its tests import is what pyproject.toml declares, and nothing else."""

import ast
import pathlib
import re
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What another package imports without declaring it; the reason stands beside each in pyproject.toml.
FOR_OTHERS = {"flatbuffers", "importlib-resources"}
# Modules whose distribution has another name.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "absl": "absl-py",
    "sklearn": "scikit-learn",
    "xdist": "pytest-xdist",
    "orbax": "orbax-checkpoint",
}
# Looked for and used where a user has them: their absence is handled, and tests of them skip.
WHERE_INSTALLED = {"ipython", "tensorflow", "torch", "torchvision", "zstandard"}


def name_of(requirement: str) -> str:
    """Return a requirement's or module's name as pip normalises it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[ \[><=!~;]", requirement, maxsplit=1)[0]).lower()


def declared(*extras: str) -> set[str]:
    names = {name_of(requirement) for requirement in PROJECT["dependencies"]}
    return names | {name_of(r) for extra in extras for r in PROJECT["optional-dependencies"][extra]}


def imported(folder: str) -> dict[str, str]:
    """Return the distributions that a folder's files import, each with a file that does."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for top in (name.split(".")[0] for name in names):
                if top not in sys.stdlib_module_names and top not in ("cnnjax", "tests", "bench"):
                    found.setdefault(name_of(DISTRIBUTIONS.get(top, top)), str(path.relative_to(ROOT)))
    return found


@pytest.mark.parametrize(("folder", "extras"), [("cnnjax", ("plot",)), ("tests", ("plot", "test"))])
def test_every_import_is_declared(folder, extras):
    undeclared = {name: path for name, path in imported(folder).items() if name not in declared(*extras)}
    assert {name: path for name, path in undeclared.items() if name not in WHERE_INSTALLED} == {}


def test_every_dependency_is_imported():
    assert declared() - set(imported("cnnjax")) == FOR_OTHERS


def test_every_dependency_has_a_floor_and_no_ceiling():
    """A ceiling refuses the machine of tomorrow; one needs a measured reason, and an exception here."""
    for requirement in PROJECT["dependencies"]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+", requirement), requirement
