"""What equal seeds need to be equal too for equal bits."""

import os
import platform
from importlib import metadata
from typing import Any

_PACKAGES = ("cnnjax", "jax", "jaxlib", "flax", "optax", "numpy")
# What decides how XLA, the libraries under it and our own convolutions compute.
_VARIABLES = ("CNNJAX_CPU_OPS", "XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")
# Flags that only say what else is to be written down.
_SILENT_FLAGS = ("--xla_dump",)
_JAX_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion",
    "jax_disable_jit",
)


def environment(used: int | None = None) -> dict[str, Any]:
    """Return versions, machine type, cores, devices, and the settings of JAX and XLA that can change a bit.

    Args:
      used: Devices that share a batch; None for all.
    Returns:
      JSON values by name; a variable that is not set is an empty text.
    """
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {name: metadata.version(name) for name in _PACKAGES}
    devices = jax.devices()
    settings = {name: getattr(jax.config, name) for name in _JAX_SETTINGS if hasattr(jax.config, name)}
    return {
        "python": platform.python_version(),
        **versions,
        "machine": platform.machine(),
        "cores": cores,
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "used_devices": len(devices) if used is None else used,
        "processes": jax.process_count(),
        **{name: _flags(os.environ.get(name, "")) for name in _VARIABLES},
        **{
            name: value if isinstance(value, bool | int | str | None) else str(value)
            for name, value in settings.items()
        },
    }


def _flags(text: str) -> str:
    return " ".join(sorted(flag for flag in text.split() if not flag.startswith(_SILENT_FLAGS)))
