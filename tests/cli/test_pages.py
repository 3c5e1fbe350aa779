"""The command line's large memory pages."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from cnnjax.cli import pages

SETTING = "glibc.malloc.hugetlb=1"


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Return what the process was replaced by, on a system that has large pages for those who ask."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    monkeypatch.setattr(pages, "_MODES", tmp_path / "enabled")
    monkeypatch.setattr(pages, "_glibc", lambda: (2, 36))
    calls = []
    monkeypatch.setattr(os, "execve", lambda *call: calls.append(SimpleNamespace(words=call[1], environ=call[2])))
    monkeypatch.setattr(sys, "argv", ["cnnjax", "train", "lenet5", "--epochs", "2"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "cnnjax", "train", "lenet5", "--epochs", "2"])
    return calls


def test_training_starts_over_with_the_setting_and_the_same_words(started):
    pages.use_large_pages()
    (call,) = started
    assert call.words == [sys.executable, "-m", "cnnjax", "train", "lenet5", "--epochs", "2"]
    assert call.environ == {**os.environ, "GLIBC_TUNABLES": SETTING}
    assert "GLIBC_TUNABLES" not in os.environ


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda patch, path: patch.setenv("GLIBC_TUNABLES", ""), "GLIBC_TUNABLES='' is set"),
        (lambda patch, path: patch.setattr(pages, "_glibc", lambda: (2, 31)), "from 2.35 on"),
        (lambda patch, path: patch.setattr(pages, "_glibc", lambda: None), "from 2.35 on"),
        (lambda patch, path: patch.setattr(sys, "executable", ""), "how Python was started"),
        (lambda patch, path: path.write_text("[always] madvise never\n"), "fixed: [always]"),
        (lambda patch, path: path.unlink(), "has none"),
    ],
)
def test_what_stands_against_it_is_said(started, monkeypatch, change, why):
    change(monkeypatch, pages._MODES)
    pages.use_large_pages()
    assert not started
    assert why in str(pages.obstacle())


def test_only_training_does(started, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cnnjax", "eval"])
    pages.use_large_pages()
    assert not started


def test_a_system_that_refuses_to_start_it_over_trains_all_the_same(started, monkeypatch):
    def refuse(*call):
        raise PermissionError

    monkeypatch.setattr(os, "execve", refuse)
    pages.use_large_pages()


def test_a_real_process_starts_over_once_and_keeps_its_number():
    code = """
import os, sys
from cnnjax.cli import pages
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.argv[1:])
there = "GLIBC_TUNABLES" in os.environ
pages.obstacle = lambda: "it is set" if there else None
pages.use_large_pages()
"""
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    words = [sys.executable, "-c", code, "train", "a b"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=True)
    first, second = done.stdout.splitlines()
    assert first.split()[0] == second.split()[0]
    assert first.endswith("None ['train', 'a b']")
    assert second.endswith(f"{SETTING} ['train', 'a b']")
