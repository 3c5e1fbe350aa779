"""Starts a training run over with large memory pages, where the C library can give them.

XLA asks malloc for all of a step's memory at every step, and the system clears it page by page: with pages of 2 MB
instead of 4 kB a step takes about a tenth less time (`bench/README.md`). The C library reads the setting once, when a
process starts.
"""

import os
import sys
from pathlib import Path

VARIABLE, SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
_MODES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_OLDEST = (2, 35)  # the first glibc that knows the setting


def use_large_pages() -> None:
    """Replace this process by one that has the setting, if it is to train and nothing speaks against it."""
    if sys.argv[1:2] != ["train"] or obstacle() is not None:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {VARIABLE: SETTING})
    except OSError:  # it trains without, too
        return


def obstacle() -> str | None:
    """Return why large pages are not asked for; None if they are."""
    if VARIABLE in os.environ:
        return f"{VARIABLE}={os.environ[VARIABLE]!r} is set"
    if not sys.executable:
        return "it is not known how Python was started"
    version = _glibc()
    if version is None or version < _OLDEST:
        return "only glibc from 2.35 on can ask for them"
    try:
        modes = _MODES.read_text()
    except OSError:
        return "the system has none"
    return None if "[madvise]" in modes else f"the system's are fixed: {modes.strip()}"


def _glibc() -> tuple[int, ...] | None:
    try:
        name, number = str(os.confstr("CS_GNU_LIBC_VERSION")).split()
    except (AttributeError, OSError, ValueError):  # another system, or another C library
        return None
    return tuple(int(part) for part in number.split(".")) if name == "glibc" else None
