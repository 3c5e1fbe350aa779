"""A run small enough to be made a hundred times, of a net that has everything, on data in an order drawn anew."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnnjax import runs
from cnnjax.batch import Batch
from cnnjax.training import Callback, create_state, fit, make_train_step
from tests.training.nets import TinyNet, random_batch

TINY, ADAM, STEP = TinyNet(), optax.chain(optax.clip(1.0), optax.adam(0.01)), make_train_step()
TRAIN = [random_batch(seed) for seed in range(4)]
# A set of its own for whole runs: 40 examples in an order that each epoch draws anew, 20 batches of 2.
EXAMPLES, BATCH = 40, 2
_ALL = jax.tree.map(np.asarray, random_batch(99, examples=EXAMPLES))


@functools.cache
def _first_state(model, tx):
    return create_state(model, tx, (6, 5, 2), key=jax.random.key(0))


def new_state(model=TINY, tx=ADAM):
    """Return a state at step 0; initialising it takes a second, so copies of one."""
    return jax.tree.map(lambda leaf: leaf.copy(), _first_state(model, tx))


def order(epoch):
    """Return the examples of an epoch, `[20, 2]`: derived from the epoch's number alone."""
    key = jax.random.fold_in(jax.random.key(7), epoch)
    return np.array(jax.random.permutation(key, EXAMPLES)).reshape(-1, BATCH)


class Data:
    """Give the batches of an epoch from any of them on, and write down which examples were asked for."""

    def __init__(self):
        self.seen = []

    def __call__(self, epoch, start=0):
        for ids in order(epoch)[start:]:
            self.seen.append((epoch, tuple(ids.tolist())))
            yield Batch(image=_ALL.image[ids], label=_ALL.label[ids], mask=_ALL.mask[ids])


def train(*callbacks, state=None, epochs=2, resume=None, data=None):
    """Train with evaluation, on the set above."""
    return fit(
        new_state() if state is None else state,
        Data() if data is None else data,
        [_ALL],
        epochs=epochs,
        callbacks=callbacks,
        train_step=STEP,
        progress=False,
        resume=resume,
    )


def resumed(path):
    """Return the state and the position to go on from, of one checkpoint."""
    arrays, position = runs.load(path)
    return {
        "state": runs.restore_state(new_state(), arrays),
        "resume": (position, runs.callback_arrays(arrays)),
    }


def run(folder, *callbacks, state=None, epochs=2, resume=None, **options):
    """Train on four batches, saving into a folder."""
    saver = runs.Checkpoints(folder, every_seconds=0.0, **options)
    return fit(
        new_state() if state is None else state,
        lambda epoch, start=0: TRAIN[start:],
        TRAIN[:1],
        epochs=epochs,
        callbacks=[*callbacks, saver],
        train_step=STEP,
        progress=False,
        resume=resume,
    )


def small(seed=0):
    """Return arrays of every kind that a state may hold, some bytes of them zero."""
    rng = np.random.default_rng(seed)
    return {
        "params/kernel": rng.normal(size=(3, 3, 2, 5)).astype(np.float32),
        "params/half": np.asarray(jnp.asarray(rng.normal(size=7), jnp.bfloat16)),
        "opt_state/0/count": np.array(seed, np.int32),
        "opt_state/1/zeros": np.zeros((4, 3), np.float32),
        "key": rng.integers(0, 2**32, 2, dtype=np.uint32),
        "empty": np.zeros((0, 3), np.float32),
        "flag": np.array(True),
    }


class StopAt(Callback):
    def __init__(self, step):
        self.at = step

    def on_step(self, loop):
        if loop.step == self.at:
            loop.stop("test", now=True)
