"""`cnnjax doctor`: versions, devices, caches, which convolution is computed how, and whether XLA computes rightly."""

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from typing import Any

from cnnjax.cli import pages, xla
from cnnjax.cli.output import Output
from cnnjax.errors import CnnjaxError, UsageError

_PACKAGES = (
    *("cnnjax", "jax", "jaxlib", "flax", "optax", "chex", "numpy", "orbax-checkpoint", "tensorflow-datasets"),
    *("pillow", "tensorboardX", "matplotlib"),
)
_PATIENCE = 300


def add_parser(verbs: Any, common: argparse.ArgumentParser) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "doctor", parents=[common], help="versions, devices, caches, the convolution's path, a check of XLA's results"
    )
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print what is found; fail if `cnnjax.ops` itself gives wrong results."""
    del args
    from cnnjax.cli import canary

    convolution, here = _convolution(), canary.check()
    decision = xla.fusion()
    found: dict[str, Any] = {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "devices": _devices(),
        "convolution": convolution,
        "measures": _measures(convolution),
        "ynn_fusion": {"switched_off": decision.switched_off, "why": decision.why},
        "caches": _caches(),
        # Plain Python sees the same as the command line, unless that has switched the fusion off for itself.
        "canary": {"command_line": here, "python": _elsewhere() if decision.switched_off else here},
    }
    out.result(found, _lines(found))
    faulty = [name for runs in found["canary"].values() for name, by in runs.items() if by["ops"] == "faulty"]
    if faulty:
        raise CnnjaxError(f"cnnjax.ops gives wrong results here: {canary.NAMES[faulty[0]]}. Report it, please.")
    return 0


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> list[dict[str, Any]]:
    import jax

    kinds = [(device.platform, device.device_kind) for device in jax.devices()]
    return [{"platform": p, "kind": kind, "count": kinds.count((p, kind))} for p, kind in dict.fromkeys(kinds)]


def _convolution() -> dict[str, Any]:
    """Return how a convolution is computed here, by lowering one, and why."""
    import jax
    import jax.numpy as jnp

    from cnnjax import ops
    from cnnjax.ops import dispatch

    try:
        mode = dispatch.cpu_mode()
    except ValueError as error:
        raise UsageError(str(error)) from None
    images, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, 8, 8, 16), (1, 1, 16, 16)))
    text = jax.jit(lambda x, k: ops.conv2d(x, k)).lower(images, kernel).as_text()
    own = "stablehlo.convolution" not in text
    backend, count = jax.default_backend(), jax.device_count()
    reasons = [f"the platform is {backend}" + ("" if count == 1 else f" with {count} devices")]
    if backend == "cpu":
        reasons.append(f"{dispatch.SWITCH} is {mode}" + ("" if dispatch.SWITCH in os.environ else " (not set)"))
        if own and mode == "exact":
            reasons.append("so without algorithms that spread what is not finite")
        if own and count > 1:
            reasons.append("but sharded arrays take XLA's own")
    path = "cnnjax's CPU algorithms" if own else "XLA's own convolution"
    return {"path": path, "why": ", ".join(reasons), "mode": mode, "platform": backend, "devices": count}


def _measures(convolution: dict[str, Any]) -> dict[str, str]:
    """Return, of each thing that makes training on a CPU fast, whether it is active here or what speaks against it."""
    from cnnjax import jax_versions

    if convolution["platform"] != "cpu":
        return {}
    heap = jax_versions.takes_options(**{jax_versions.HEAP_SIZE: 1 << 24})
    heaps = "active" if heap else f"gone: this JAX has no option {jax_versions.HEAP_SIZE}"
    if heap and (folder := jax_versions.compile_cache()):
        heaps = f"not with programs kept in {folder}, which XLA cannot do with several heaps"
    own = convolution["path"] != "XLA's own convolution"
    off = convolution["mode"] == "off"
    unknown = "gone: this JAX lowers programs in a way that cnnjax does not know"
    return {
        "algorithms": "active" if own else "switched off" if off else unknown,
        "small_heaps": "switched off" if off else heaps,
        "large_pages": pages.obstacle() or f"asked for by cnnjax train, {pages.VARIABLE}={pages.SETTING}",
    }


def _caches() -> dict[str, str | None]:
    from cnnjax import jax_versions
    from cnnjax.data import prepared
    from cnnjax.pretrained import download

    return {
        "compiled_programs": jax_versions.compile_cache(),
        "datasets": str(prepared.default_data_dir()),
        "weights": str(download.cache_dir()),
    }


def _elsewhere() -> dict[str, dict[str, str]]:
    """Run the checks in a process that has the user's own environment."""
    command = [sys.executable, "-m", "cnnjax.cli.canary"]
    done = subprocess.run(
        command, env=xla.users_environment(), capture_output=True, text=True, timeout=_PATIENCE, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise CnnjaxError(f"the check of XLA's results ended with {done.returncode}: {last}")
    return json.loads(done.stdout)


def _lines(found: dict[str, Any]) -> list[str]:
    from cnnjax.cli import canary

    versions, caches = found["versions"], found["caches"]
    lines = ["versions:     " + ", ".join(f"{name} {number or 'not installed'}" for name, number in versions.items())]
    lines.append(f"machine:      {found['machine']}, {found['cores']} cores")
    for device in found["devices"]:
        lines.append(f"devices:      {device['count']} x {device['platform']} ({device['kind']})")
    lines.append(f"convolution:  {found['convolution']['path']}: {found['convolution']['why']}")
    lines.append(f"YNN fusion:   {found['ynn_fusion']['why']}")
    lines += [f"{name.replace('_', ' ') + ':':14}{what}" for name, what in found["measures"].items()]
    compiled = caches["compiled_programs"] or "not kept (JAX_COMPILATION_CACHE_DIR=DIR keeps them)"
    lines.append(f"caches:       compiled programs: {compiled}")
    lines += [f"{'':14}{name}: {caches[name]}" for name in ("datasets", "weights")]
    width = 2 + max(map(len, canary.NAMES.values()))
    lines.append(f"{'results:':14}{'':{width + 2}}{'jax.lax':9}cnnjax.ops")
    for place, title in (("python", "in plain Python"), ("command_line", "in this command line")):
        lines.append(f"{'':14}{title}")
        for name, by in found["canary"][place].items():
            lines.append(f"{'':16}{canary.NAMES[name]:{width}}{by['lax']:9}{by['ops']}")
    return lines
