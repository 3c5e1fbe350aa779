"""Take training steps with cnnjax or plain Flax, some a turn; started by bench/train_step.py: KIND NET BATCH SIDE.

KIND `flax` is the same net with Flax's own convolution, pools and batch norm on `jax.lax`; `cnnjax` is cnnjax's.
bench/train_step.py switches the CPU path off (CNNJAX_CPU_OPS) for the former.
"""

import resource
import sys
import time

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from plain_flax import only_flax
from turns import Turns


def main(kind: str, name: str, batch_size: int, side: int) -> None:
    turns = Turns()
    if kind == "flax":
        only_flax()
    from cnnjax.models import build
    from cnnjax.training import create_state, make_train_step

    options = {"aux_logits": False} if name.startswith("googlenet") else {}
    channels = 1 if name == "lenet5" else 3
    state = create_state(
        build(name, num_classes=10, **options),
        optax.sgd(0.01, momentum=0.9),
        (side, side, channels),
        key=jax.random.key(0),
    )
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.normal(size=(batch_size, side, side, channels)), jnp.float32),
        "label": jnp.arange(batch_size) % 10,
    }
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
    turns.report(version=version, params=state.num_params, compile_seconds=compile_seconds)
    while True:
        turns.wait()
        seconds, steps = turns.repeat(take)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        turns.report(seconds=seconds, steps=steps, images=batch_size, peak_mb=peak / 1024)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
