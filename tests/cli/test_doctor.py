"""`cnnjax doctor`, and the fusion that the command line switches off."""

import json
import os
import sys
from importlib import metadata
from unittest import mock

import jax
import pytest

from cnnjax import jax_versions
from cnnjax.cli import canary, doctor, xla
from cnnjax.cli.main import run
from tests.cli.commands import cnnjax, last_json, only_line

FLAG = "--xla_cpu_experimental_ynn_fusion_type="
OK = {name: {"lax": "ok", "ops": "ok"} for name in canary.NAMES}


@pytest.fixture
def clean(monkeypatch):
    """An environment as it comes, and a process for which nothing is decided yet."""
    monkeypatch.setattr(xla, "_decision", xla.fusion())
    with mock.patch.dict(os.environ):  # undoes what xla.py itself writes
        for name in ("XLA_FLAGS", "JAX_PLATFORMS", "CNNJAX_CPU_OPS"):
            os.environ.pop(name, None)
        yield monkeypatch


def test_doctor_in_its_own_process_says_what_is_faulty_and_what_is_not():
    """And this jaxlib knows the flag: an unknown one would end the process."""
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "CNNJAX_CPU_OPS")}
    done = cnnjax("doctor", "--json", env=environment | {"JAX_PLATFORMS": "cpu"})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["versions"]["jax"] == metadata.version("jax")
    assert found["devices"] == [{"platform": "cpu", "kind": "cpu", "count": 1}]
    assert found["convolution"]["path"] == "cnnjax's CPU algorithms"
    assert found["measures"]["algorithms"] == "active"
    assert found["measures"]["small_heaps"].startswith("not with programs kept in")  # where the tests keep them
    assert found["ynn_fusion"] == {"switched_off": True, "why": f"switched off by the command line, XLA_FLAGS={FLAG}"}
    # With the fusion off, everything is right; in plain Python cnnjax.ops is, whatever jax.lax does there.
    # What the command line can't switch off, XLA's aborting, is known of plain JAX alone.
    assert found["canary"]["command_line"] == OK | {"transposed_convolution": {"lax": "faulty", "ops": "ok"}}
    assert {name: by["ops"] for name, by in found["canary"]["python"].items()} == dict.fromkeys(canary.NAMES, "ok")


def test_doctor_names_the_path_of_the_convolution_and_why(clean, capsys):
    clean.setattr(canary, "check", lambda: OK)
    for mode, path in (("off", "XLA's own convolution"), ("exact", "cnnjax's CPU algorithms")):
        clean.setenv("CNNJAX_CPU_OPS", mode)
        assert run(["doctor", "--json"]) == 0
        found = last_json(capsys)
        assert found["convolution"]["path"] == path
        assert f"CNNJAX_CPU_OPS is {mode}" in found["convolution"]["why"]
        # Only the command line's own process may change XLA's flags.
        assert found["ynn_fusion"]["switched_off"] is False
    clean.setenv("JAX_COMPILATION_CACHE_DIR", "/somewhere")
    assert run(["doctor"]) == 0
    text = capsys.readouterr().out
    assert f"jaxlib {metadata.version('jaxlib')}" in text
    assert f"{jax.device_count()} x cpu" in text
    assert "not set" not in text
    clean.setenv("CNNJAX_CPU_OPS", "fast")
    assert run(["doctor"]) == 2
    assert "expected one of on, off, exact, got 'fast'" in only_line(capsys)


def test_doctor_says_which_measure_this_jax_no_longer_has(clean):
    convolution = {"platform": "cpu", "path": "XLA's own convolution", "mode": "on"}
    clean.setattr(jax_versions, "HEAP_SIZE", "xla_has_no_such_setting")
    measures = doctor._measures(convolution)
    assert measures["small_heaps"] == "gone: this JAX has no option xla_has_no_such_setting"
    assert measures["algorithms"] == "gone: this JAX lowers programs in a way that cnnjax does not know"
    assert doctor._measures(convolution | {"mode": "off"})["algorithms"] == "switched off"


def test_the_longest_check_leaves_its_column_alone(clean, capsys):
    clean.setattr(canary, "check", lambda: OK)
    clean.setattr(doctor, "_elsewhere", lambda: OK)
    assert run(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    column = next(line for line in lines if line.startswith("results:")).index("jax.lax")
    for name in canary.NAMES.values():
        assert {line.index("ok") for line in lines if line.strip().startswith(name + " ")} == {column}


def test_doctor_fails_where_the_ops_are_wrong(clean, capsys):
    clean.setattr(canary, "check", lambda: OK | {"nan_in_mean": {"lax": "ok", "ops": "faulty"}})
    assert run(["doctor", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["canary"]["command_line"]["nan_in_mean"]["ops"] == "faulty"
    assert "cnnjax.ops gives wrong results here: NaN through the mean of a ReLU" in captured.err


def test_a_child_that_fails_is_one_line(clean):
    clean.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Exception, match="ended with 1: it said nothing"):
        doctor._elsewhere()


@pytest.mark.parametrize(
    ("flags", "version", "plugins", "off", "why"),
    [
        (None, "0.10.2", [], True, "switched off"),
        (None, "0.9.0", ["xla_cuda12"], True, "switched off"),
        ("", "0.10.2", [], False, "XLA_FLAGS='' is set"),
        ("--xla_dump_to=x", "0.10.2", [], False, "XLA_FLAGS='--xla_dump_to=x' is set"),
        (None, "0.8.3", [], False, "jaxlib 0.8.3 is not one of those"),
        (None, "0.13.0", [], False, "jaxlib 0.13.0 is not one of those"),
        (None, "0.10.2", ["libtpu"], False, "libtpu may not know the flag"),
    ],
)
def test_the_fusion_is_switched_off_only_where_that_is_known_to_work(clean, flags, version, plugins, off, why):
    clean.setattr(xla.metadata, "version", lambda name: version)
    clean.setattr(xla, "_plugins", lambda: plugins)
    if flags is not None:
        clean.setenv("XLA_FLAGS", flags)
    xla.switch_fusion_off()
    assert os.environ.get("XLA_FLAGS") == (FLAG if off else flags)
    assert xla.users_environment().get("XLA_FLAGS") == flags
    assert xla.fusion().switched_off is off
    assert why in xla.fusion().why


def test_cpu_alone_needs_no_other_library_to_know_the_flag(clean):
    clean.setattr(xla, "_plugins", lambda: ["libtpu"])
    clean.setenv("JAX_PLATFORMS", "cpu")
    xla.switch_fusion_off()
    assert xla.fusion().switched_off
