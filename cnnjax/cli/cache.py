"""Keeps compiled programs from one command to the next, in the user's cache folder."""

import contextlib
import hashlib
import json
import os
import pathlib
import platform
import sys
import zlib
from importlib import metadata

from cnnjax import files
from cnnjax.errors import CnnjaxError

_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
_PROGRAMS, _LIST = "*-cache", "whole.json"
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_folders: list[pathlib.Path] = []


def switch_on() -> None:
    """Let JAX keep compiled programs, unless the user has said where or `CNNJAX_COMPILE_CACHE=off`; before JAX starts.

    A folder that cannot be written only costs the time to compile.
    """
    if _VARIABLE not in os.environ and os.environ.get("CNNJAX_COMPILE_CACHE", "on").lower() != "off":
        folder = default_folder()
        os.environ[_VARIABLE] = str(folder)
        with contextlib.suppress(OSError):
            for path in _settle(folder):  # one that is being written right now is merely not kept
                path.unlink(missing_ok=True)
            _folders.append(folder)


def settle() -> None:
    """Write down which programs are whole, so that the next command need not read them all; when a command ends."""
    for folder in _folders:
        with contextlib.suppress(OSError, CnnjaxError):
            _settle(folder)
    _folders.clear()


def _settle(folder: pathlib.Path) -> list[pathlib.Path]:
    """Look at the programs that are new, write down which are whole, and return the others.

    JAX writes a program straight to its place and never again: what a killed process or a full disk left cut off would
    be read, refused and compiled anew by every command to come.
    """
    known = _settled(folder)
    found = {path: path.stat().st_size for path in folder.glob(_PROGRAMS)}
    new = [path for path, size in found.items() if known.get(path.name) != size]
    whole = [path for path in new if _is_whole(path)]
    if whole:
        files.write_text(folder / _LIST, json.dumps({**_settled(folder), **{p.name: found[p] for p in whole}}))
    return [path for path in new if path not in whole]


def _settled(folder: pathlib.Path) -> dict[str, int]:
    try:
        return json.loads((folder / _LIST).read_text())
    except (OSError, ValueError):
        return {}


def _is_whole(path: pathlib.Path) -> bool:
    data = path.read_bytes()
    try:
        if data.startswith(_ZSTANDARD):
            import zstandard  # pyright: ignore[reportMissingImports]  JAX uses it where it is installed

            zstandard.ZstdDecompressor().decompress(data)
        else:
            zlib.decompress(data)
    except Exception:  # whatever a library makes of data that are cut off
        return False
    return True


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
