"""The house's rules that a reader could break without noticing."""

import ast
import importlib
import pathlib
import subprocess
import sys

import pytest

import cnnjax

ROOT = pathlib.Path(cnnjax.__file__).parent

# Which rooms a room may import. `errors` and `batch` are the words that the rooms speak to each other in.
ALLOWED = {
    "batch": set(),
    "errors": set(),
    "files": {"errors"},
    "safetensors": set(),
    "shapes": {"errors"},
    "jax_versions": set(),
    "jaxpr": {"errors", "jax_versions"},
    "receptive_field": {"jaxpr", "jax_versions", "modes", "ops", "shapes", "errors"},
    "ops": {"shapes", "errors", "jax_versions", "jaxpr"},
    "layers": {"ops", "shapes", "errors"},
    "modes": {"errors"},
    "model_summary": {"jaxpr", "jax_versions", "modes", "receptive_field"},
    "models": {"layers", "ops", "shapes", "modes", "errors"},
    "pretrained": {"models", "modes", "layers", "ops", "shapes", "safetensors", "errors", "files"},
    "model_loading": {"errors", "models", "pretrained", "training"},
    "classifier": {
        *("data", "errors", "files", "model_loading", "models", "modes", "ops"),
        *("pretrained", "receptive_field", "runs", "safetensors", "training"),
    },
    "devices": {"errors"},
    "hosts": {"errors"},
    "data": {"batch", "devices", "errors"},
    "training": {"batch", "jaxpr", "modes", "ops", "errors", "files"},
    "runs": {"training", "hosts", "safetensors", "errors", "files"},
    "recipes": {"errors"},
    "__main__": {"cli"},
    "cli": {
        "Classifier",
        "classifier",
        "model_loading",
        "data",
        "models",
        "pretrained",
        "training",
        "runs",
        "devices",
        "hosts",
        "modes",
        "recipes",
        "shapes",
        "ops",
        "layers",
        "errors",
        "files",
        "summary",
        "receptive_field",
        "jax_versions",
    },
}
# What is imported by users; `cli` is asked on the command line.
PACKAGES = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"cli"}
# Within training, in the order of the flow: a file imports only those before it.
FLOW = [
    "history",
    "losses",
    "inputs",
    "metrics",
    "optim",
    "ema",
    "state",
    "gradients",
    "jitted",
    "step",
    "loop",
    "callbacks",
    "progress",
    "tensorboard",
    "fit",
]


def imports(path):
    """Return the cnnjax modules that a file imports, as dotted paths without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cnnjax":
            inner = node.module.removeprefix("cnnjax").strip(".")
            found |= {inner} if inner else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("cnnjax.") for a in node.names if a.name.startswith("cnnjax.")}
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path}: a relative import hides its room")
    return found - {"__version__"}


FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    rooms = {name.split(".")[0] for name in imports(path)} - {room}
    assert rooms <= ALLOWED[room], f"{room} must not import {sorted(rooms - ALLOWED[room])}"


def test_training_flows_one_way():
    for place, name in enumerate(FLOW):
        inner = {
            n.removeprefix("training.") for n in imports(ROOT / "training" / f"{name}.py") if n.startswith("training.")
        }
        assert inner <= set(FLOW[:place]), name
    files = {p.stem for p in (ROOT / "training").glob("*.py")} - {"__init__"}
    assert files == set(FLOW)


def test_the_reader_of_imports_sees_them():
    rooms = {f"training.{name}" for name in ("ema", "gradients", "inputs", "jitted", "losses", "metrics", "state")}
    assert imports(ROOT / "training" / "step.py") == {"batch", *rooms}
    assert "recipes" in imports(ROOT / "cli" / "train.py")


@pytest.mark.parametrize(
    "module",
    [
        "cnnjax",
        *(f"cnnjax.{name}" for name in cnnjax.__all__ if name not in ("Classifier", "features", "summary")),
        "cnnjax.cli.main",
    ],
)
def test_importing_loads_nothing_heavy(module):
    heavy = ["tensorflow", "torch", "keras", "matplotlib", "tensorflow_datasets", "orbax", "PIL", "tensorboardX"]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_subpackages_need_no_import_of_their_own():
    code = "import cnnjax; print(cnnjax.models.available()[:1], cnnjax.__version__, 'runs' in dir(cnnjax))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split()[1:] == [cnnjax.__version__, "True"]
    with pytest.raises(AttributeError, match="no attribute 'modles'"):
        cnnjax.modles  # noqa: B018


@pytest.mark.parametrize("room", ["", *(f".{name}" for name in sorted(PACKAGES))])
def test_dir_shows_public_names_only(room):
    module = importlib.import_module(f"cnnjax{room}")
    assert dir(module) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


def test_no_test_module_imports_another_or_skips_itself_whole():
    """Such a module would be missing, or its import fail, where the library is not installed that it asks for."""
    here = pathlib.Path(__file__).parent
    for path in sorted(here.rglob("*.py")):
        tree = ast.parse(path.read_text())
        imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom | ast.Import)]
        names = [f"{getattr(node, 'module', '')}.{alias.name}" for node in imported for alias in node.names]
        assert not [name for name in names if "tests." in name and ".test_" in name], path
        at_once = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
        calls = {ast.unparse(c.func) for node in at_once for c in ast.walk(node) if isinstance(c, ast.Call)}
        assert not {"pytest.importorskip", "pytest.skip"} & calls, path
