"""`cnnjax train --dry-run`: compile the steps and take a few, to know shapes, memory and times before a long run."""

import time
from typing import Any

import jax

from cnnjax.cli.output import Output
from cnnjax.cli.training_setup import Setup
from cnnjax.modes import watch_modes
from cnnjax.training import TrainState

_STEPS = 5
_SHOWN = 4  # names of a long list


def run(setup: Setup, out: Output) -> int:
    """Compile and time the training step on the first batches, say what it needs, and keep nothing.

    Args:
      setup: What would be trained.
      out: Where to speak.
    Returns:
      The exit code.
    """
    walk = setup.epoch(0)
    batch = next(walk)
    begin = time.perf_counter()
    compiled = setup.train_step.lower(setup.state, batch).compile()  # pyright: ignore[reportFunctionMemberAccess]
    compile_seconds = time.perf_counter() - begin
    state, seconds = setup.state, []
    for _ in range(_STEPS):
        begin = time.perf_counter()
        state, metrics = compiled(state, batch)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - begin)
    result = {
        "model": setup.recipe.model,
        "dataset": setup.recipe.dataset,
        "params": setup.state.num_params,
        "image": [*batch.image.shape],
        "dtype": str(batch.image.dtype),
        "devices": 1 if setup.mesh is None else int(setup.mesh.devices.size),
        "compile_seconds": round(compile_seconds, 3),
        "step_seconds": min(seconds),
        "steps_an_epoch": setup.epoch_steps,
        "loss": metrics.loss,
        **_modes(setup.state, batch.image),
        **_memory(compiled),
    }
    out.result(result, _lines(result))
    return 0


def _modes(state: TrainState, images: jax.Array) -> dict[str, list[str]]:
    """Return the modules that training finds in training mode, and those that it finds in evaluation mode."""
    options = {"train": True, "rngs": {"dropout": state.key}, "mutable": ["batch_stats", "intermediates"]}
    with watch_modes() as seen:
        jax.eval_shape(lambda s, x: s.apply_fn(s.variables, x, **options), state, images)
    return {
        "training_modules": [path for path, trains in seen.items() if trains],
        "evaluation_modules": [path for path, trains in seen.items() if not trains],
    }


def _memory(compiled: Any) -> dict[str, int | None]:
    """Return the bytes on a device: what lives from step to step, and the most that a step needs beside it."""
    analysis = compiled.memory_analysis()
    if analysis is None:  # not every platform tells
        return {"state_bytes": None, "step_bytes": None}
    return {
        "state_bytes": int(analysis.alias_size_in_bytes),
        "step_bytes": int(analysis.temp_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes),
    }


def _lines(result: dict[str, Any]) -> list[str]:
    step, steps = result["step_seconds"], result["steps_an_epoch"]
    images = result["image"][0] / step
    lines = [
        f"{result['model']}, {result['params']:,} parameters, on {result['devices']} device(s)",
        f"batch: {result['image']} {result['dtype']}, loss {result['loss']:.4f}",
        f"compiled in {result['compile_seconds']:.1f} s; a step takes {step * 1e3:.1f} ms, {images:,.0f} images/s; "
        f"an epoch of {steps:,} steps about {step * steps:,.0f} s",
    ]
    for mode in ("training", "evaluation"):
        if names := result[f"{mode}_modules"]:
            shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
            lines.append(f"in {mode} mode: {shown}")
    if result["state_bytes"] is not None:
        lines.append(
            f"memory on each device: {result['state_bytes'] / 2**20:,.1f} MiB of state, and "
            f"{result['step_bytes'] / 2**20:,.1f} MiB during a step"
        )
    return [*lines, "dry run: nothing was kept"]
