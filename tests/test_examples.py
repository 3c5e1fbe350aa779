"""What a newcomer copies must run: the examples and the README's own code."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _own_data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_the_example_runs(path):
    done = subprocess.run([sys.executable, path, "--smoke"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert any(words in done.stdout for words in ("test images", "sigma", "from the first image"))
    assert 40 <= path.read_text().count("\n") <= 130


def test_the_readmes_python_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert "epochs=20" in code
    exec(compile(code.replace("epochs=20", "epochs=1"), "README.md", "exec"), {})
    assert 0 <= float(capsys.readouterr().out.split()[-1]) <= 1


def test_the_readmes_ops_print_what_it_says(capsys):
    blocks = re.findall(r"```py\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (code,) = (block for block in blocks if "conv_general_dilated" in block)
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    (promised,) = re.findall(r"# (\(32.*)", code)
    assert printed.startswith(promised + "\ninput 28, kernel 3, stride 2")


def test_the_readmes_commands_are_the_ones_that_ci_runs():
    readme = (ROOT / "README.md").read_text()
    (train,) = re.findall(r"^(python3 -m venv .*cnnjax train .*)$", readme, re.M)
    (test,) = re.findall(r"^(python3 -m venv .*pytest.*)$", readme, re.M)
    first_screen = "\n".join(readme.splitlines()[:24])
    assert train in first_screen
    assert test in first_screen


@pytest.mark.slow
def test_the_readmes_own_module_trains(tmp_path, monkeypatch):
    blocks = re.findall(r"```py\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (code,) = (block for block in blocks if "nn.Module" in block)
    (tmp_path / "mynets.py").write_text(code)
    words = ["train", "mynets:Net", "--dataset", "digits", "--epochs", "1", "--workdir", "run", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "cnnjax", *words], capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_readmes_classifier_is_that_of_a_run(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```py\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (code,) = (block for block in blocks if "from_run" in block)
    (train,) = re.findall(r"# after: cnnjax (train .*)", code)
    words = [sys.executable, "-m", "cnnjax", *train.split(), "--epochs", "2"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    *_, accuracy, names = capsys.readouterr().out.splitlines()
    assert 0.5 < float(accuracy) <= 1
    assert names == str(tuple("0123456789"))
