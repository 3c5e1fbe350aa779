"""Keeps compiled programs from one command to the next, in the user's cache folder."""

import hashlib
import os
import pathlib
import platform
import sys
from importlib import metadata

_VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def switch_on() -> None:
    """Let JAX keep compiled programs, unless the user has said where or `CNNJAX_COMPILE_CACHE=off`; before JAX starts.

    A folder that cannot be written only costs the time to compile.
    """
    if _VARIABLE not in os.environ and os.environ.get("CNNJAX_COMPILE_CACHE", "on").lower() != "off":
        os.environ[_VARIABLE] = str(default_folder())


def default_folder() -> pathlib.Path:
    """Return the folder for this jaxlib on this kind of processor.

    XLA compiles for the processor at hand, and a home folder may be shared by machines with different ones: a program
    of another machine could meet instructions that this one lacks.
    """
    kind = hashlib.sha256(_processor().encode()).hexdigest()[:12]
    return _user_cache() / "cnnjax" / "compiled" / f"jaxlib-{metadata.version('jaxlib')}-{kind}"


def _user_cache() -> pathlib.Path:
    if os.environ.get("XDG_CACHE_HOME"):
        return pathlib.Path(os.environ["XDG_CACHE_HOME"])
    home = pathlib.Path.home()
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache")


def _processor() -> str:
    """Return what tells one kind of processor from another: on Linux its instruction sets."""
    words = [platform.machine(), platform.processor()]
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return " ".join(words)
    kept = ("flags", "Features", "model name")
    # One core stands for all; the frequency and the like change from one moment to the next.
    found = {line.split(":")[0].strip(): line for line in lines if line.startswith(kept)}
    return " ".join([*words, *(found[name] for name in sorted(found))])
