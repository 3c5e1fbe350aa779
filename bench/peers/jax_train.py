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
from flax import linen as nn
from turns import Turns

from cnnjax import layers, ops, shapes


def flax_pool(pool):
    def call(x, window, *, strides=None, padding="VALID", ceil_mode=False, **options):
        window = (window, window) if isinstance(window, int) else tuple(window)
        strides = window if strides is None else (strides, strides) if isinstance(strides, int) else tuple(strides)
        pads = ((padding, padding),) * 2 if isinstance(padding, int) else padding
        if ceil_mode:
            pads = cnnjax_pool_padding(x.shape[1:3], window, strides, padding)
        return pool(x, window, strides, pads, **options)

    return call


def cnnjax_pool_padding(sizes, window, strides, padding):
    sides = (padding, padding) if isinstance(padding, str | int) else padding
    return tuple(shapes.window_padding(n, k, s, p, ceil_mode=True) for n, k, s, p in zip(sizes, window, strides, sides))


def only_flax() -> None:
    """Put Flax's own functions where the nets look for cnnjax's; before the nets are imported."""
    ops.max_pool = flax_pool(nn.max_pool)
    ops.avg_pool = flax_pool(nn.avg_pool)
    ops.global_avg_pool = lambda x: jnp.mean(x, axis=(1, 2))
    layers.Conv = layers.conv.Conv = nn.Conv
    layers.BatchNorm = layers.norm.BatchNorm = nn.BatchNorm


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
