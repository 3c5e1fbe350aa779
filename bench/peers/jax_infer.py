"""Run a net forward with cnnjax or plain Flax; started by bench/inference.py: KIND NET BATCH SIDE."""

import sys
import time

import flax
import jax
from jax_nets import net_and_images
from turns import Turns


def main(kind: str, name: str, batch_size: int, side: int) -> None:
    turns = Turns()
    model, x = net_and_images(kind, name, batch_size, side)
    variables = jax.block_until_ready(jax.jit(model.init)(jax.random.key(0), x[:1]))
    forward = jax.jit(model.apply)

    def take() -> None:
        jax.block_until_ready(forward(variables, x))

    start = time.perf_counter()
    take()
    compile_seconds = time.perf_counter() - start
    params = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    version = f"jax {jax.__version__}, flax {flax.__version__}"
    turns.serve(take, batch_size, version=version, params=params, compile_seconds=compile_seconds)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
