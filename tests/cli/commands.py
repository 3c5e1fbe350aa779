"""What the tests of the command line share: how to run it and how to read what it says."""

import csv
import json
import subprocess
import sys

import pytest

TRAIN = ["train", "lenet5", "--dataset", "digits", "--epochs", "2", "--no-tensorboard"]


def cnnjax(*words, **options):
    """Run the command line in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "cnnjax", *map(str, words)], capture_output=True, text=True, timeout=300, **options
    )


def read_csv(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def last_json(capsys):
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1, lines
    return json.loads(lines[0], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def only_line(capsys):
    text = capsys.readouterr()
    assert text.err.count("\n") == 1, text.err
    assert "Traceback" not in text.err
    return text.err.strip()
