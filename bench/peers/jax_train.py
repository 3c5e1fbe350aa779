"""Take training steps with cnnjax or plain Flax, some a turn; started by bench/train_step.py: KIND NET BATCH SIDE.

KIND `flax` is the same net with Flax's own convolution, pools and batch norm on `jax.lax`; `cnnjax` is cnnjax's.
bench/train_step.py switches the CPU path off (CNNJAX_CPU_OPS) for the former.
"""

import sys
import time

import flax
import jax
import jax.numpy as jnp
import optax
from jax_nets import net_and_images
from turns import Turns


def main(kind: str, name: str, batch_size: int, side: int) -> None:
    turns = Turns()
    model, images = net_and_images(kind, name, batch_size, side)
    from cnnjax.training import create_state, keep_freed_memory, make_train_step

    keep_freed_memory()  # does nothing where cnnjax's CPU path is off

    state = create_state(model, optax.sgd(0.01, momentum=0.9), images.shape[1:], key=jax.random.key(0))
    batch = {"image": images, "label": jnp.arange(batch_size) % 10}
    jax.block_until_ready((state, batch))
    step = make_train_step()

    def take() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    start = time.perf_counter()
    take()
    compile_seconds = time.perf_counter() - start
    version = f"jax {jax.__version__}, flax {flax.__version__}"
    turns.serve(take, batch_size, version=version, params=state.num_params, compile_seconds=compile_seconds)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
