import json
import os
import zlib

import pytest

from cnnjax.cli import cache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(cache, "_folders", [])
    return cache.default_folder()


def test_programs_are_kept_for_this_kind_of_processor_below_the_users_cache(folder, tmp_path):
    cache.switch_on()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(folder)
    assert folder.is_relative_to(tmp_path / "cnnjax")
    assert folder == cache.default_folder()  # nothing in its name changes from one moment to the next


def test_another_processor_has_another_folder(folder, monkeypatch):
    monkeypatch.setattr(cache, "_processor", lambda: "x86_64 with other instructions")
    assert cache.default_folder() != folder
    assert cache.default_folder().parent == folder.parent


@pytest.mark.parametrize(("name", "value"), [("JAX_COMPILATION_CACHE_DIR", "/mine"), ("CNNJAX_COMPILE_CACHE", "off")])
def test_what_the_user_said_stands(folder, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    cache.switch_on()
    assert os.environ.get("JAX_COMPILATION_CACHE_DIR") == (value if name.startswith("JAX") else None)
    cache.settle()
    assert not folder.exists()


def test_a_program_that_was_cut_off_is_not_read_by_the_next_command(folder, monkeypatch):
    cache.switch_on()
    folder.mkdir(parents=True)
    whole = zlib.compress(os.urandom(10_000))
    (folder / "jit_whole-1-cache").write_bytes(whole)
    (folder / "jit_cut-2-cache").write_bytes(whole[:-100])  # as a full disk leaves it
    cache.settle()
    assert json.loads((folder / "whole.json").read_text()) == {"jit_whole-1-cache": len(whole)}

    # The command of these two was killed: what it had finished is kept, or each resumed run would compile anew.
    (folder / "jit_killed-3-cache").write_bytes(whole)
    (folder / "jit_killed-4-cache").write_bytes(whole[:5_000])
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    cache.switch_on()
    kept = ["jit_killed-3-cache", "jit_whole-1-cache"]
    assert sorted(path.name for path in folder.iterdir()) == [*kept, "whole.json"]
    assert sorted(json.loads((folder / "whole.json").read_text())) == kept


def test_a_list_that_is_damaged_is_made_anew(folder):
    folder.mkdir(parents=True)
    (folder / "whole.json").write_text("{")
    (folder / "jit_one-1-cache").write_bytes(zlib.compress(b"program"))
    cache.switch_on()
    assert (folder / "jit_one-1-cache").exists()
    assert list(json.loads((folder / "whole.json").read_text())) == ["jit_one-1-cache"]
