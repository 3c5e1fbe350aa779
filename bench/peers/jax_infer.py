"""Run a net forward with cnnjax or plain Flax; started by bench/inference.py: KIND NET BATCH SIDE."""

import resource
import sys
import time

import flax
import jax
import jax.numpy as jnp
import numpy as np
from plain_flax import only_flax
from turns import Turns


def main(kind: str, name: str, batch_size: int, side: int) -> None:
    turns = Turns()
    if kind == "flax":
        only_flax()
    from cnnjax.models import build

    options = {"aux_logits": False} if name.startswith("googlenet") else {}
    model = build(name, num_classes=10, **options)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(batch_size, side, side, 1 if name == "lenet5" else 3)), jnp.float32)
    variables = jax.block_until_ready(jax.jit(model.init)(jax.random.key(0), x[:1]))
    forward = jax.jit(model.apply)

    def take() -> None:
        jax.block_until_ready(forward(variables, x))

    start = time.perf_counter()
    take()
    compile_seconds = time.perf_counter() - start
    params = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    version = f"jax {jax.__version__}, flax {flax.__version__}"
    turns.report(version=version, params=params, compile_seconds=compile_seconds)
    while True:
        turns.wait()
        seconds, steps = turns.repeat(take)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        turns.report(seconds=seconds, steps=steps, images=batch_size, peak_mb=peak / 1024)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
