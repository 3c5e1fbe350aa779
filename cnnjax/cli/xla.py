"""Switches off, for the command line, a fusion of XLA's that gives wrong numbers without an error on a CPU."""

import importlib.util
import os
import pkgutil
from dataclasses import dataclass
from importlib import metadata

_VARIABLE = "XLA_FLAGS"
_FLAG = "--xla_cpu_experimental_ynn_fusion_type="
# An unknown flag ends the process, so only for versions that were tried: from the first to below the second.
_TRIED = ((0, 9), (0, 13))
# Plugins that are built with jaxlib and know its flags; a TPU's library has an age of its own.
_KIN = ("xla_cuda", "xla_rocm")


@dataclass(frozen=True)
class Fusion:
    """Say whether the YNNPACK fusion of XLA for the CPU was switched off here, and why.

    Args:
      switched_off: Whether this process did it.
      why: The reason, in words.
    """

    switched_off: bool
    why: str


_decision = Fusion(False, "left as it is: only the command line's own process switches it off")


def switch_fusion_off() -> None:
    """Switch the fusion off unless the user has set `XLA_FLAGS`; to be called before JAX starts.

    It makes garbage of a reduction after a convolution by constants, and drops NaN in maxima. `cnnjax.ops` is right
    either way; a user's own module is not.
    """
    global _decision
    obstacle = _obstacle()
    if obstacle is None:
        os.environ[_VARIABLE] = _FLAG
        _decision = Fusion(True, f"switched off by the command line, {_VARIABLE}={_FLAG}")
    else:
        _decision = Fusion(False, f"left as it is: {obstacle}")


def fusion() -> Fusion:
    """Return what was decided."""
    return _decision


def users_environment() -> dict[str, str]:
    """Return the environment as it came."""
    return {name: value for name, value in os.environ.items() if not (_decision.switched_off and name == _VARIABLE)}


def _obstacle() -> str | None:
    if _VARIABLE in os.environ:
        return f"{_VARIABLE}={os.environ[_VARIABLE]!r} is set, which the command line does not change"
    version = metadata.version("jaxlib")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if not _TRIED[0] <= numbers < _TRIED[1]:
        return f"jaxlib {version} is not one of those on which the flag was tried"
    if os.environ.get("JAX_PLATFORMS", "").lower() == "cpu":
        return None
    strangers = [name for name in _plugins() if not name.startswith(_KIN)]
    return f"{strangers[0]} may not know the flag; JAX_PLATFORMS=cpu would do without it" if strangers else None


def _plugins() -> list[str]:
    """Return the names of JAX's plugins that are installed, and of the TPU's library."""
    spec = importlib.util.find_spec("jax_plugins")
    places = (spec.submodule_search_locations if spec else None) or []
    names = {module.name for module in pkgutil.iter_modules(places)}
    names |= {entry.name for entry in metadata.entry_points(group="jax_plugins")}
    return sorted(names | ({"libtpu"} if importlib.util.find_spec("libtpu") else set()))
