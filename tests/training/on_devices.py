"""Train and evaluate on 1 to 8 devices that JAX_NUM_CPU_DEVICES simulates; test_devices.py judges what is printed."""

import hashlib
import json
import sys

import jax
import numpy as np
import optax

from cnnjax import data, devices
from cnnjax.data import augment
from cnnjax.data.resident import Split
from cnnjax.training import create_state, evaluate, fit, make_eval_step, make_train_step
from tests.training.nets import TinyNet

SHAPE, CLASSES = (6, 5, 2), 4


def split(examples, name="train"):
    rng = np.random.default_rng(examples)
    return Split(
        name,
        rng.integers(0, 256, (examples, *SHAPE), dtype=np.uint8),
        rng.integers(0, CLASSES, examples, dtype=np.int32),
        [str(number) for number in range(examples)],
        (0.4, 0.5),
        (0.2, 0.3),
    )


def meshes(*counts):
    return {count: devices.data_mesh(count) if count > 1 else None for count in counts}


def place(state, mesh):
    return state if mesh is None else devices.replicate(state, mesh)


def train(mesh, step):
    key, examples = jax.random.key(1), split(50)
    model = TinyNet(CLASSES, dropout=0.0)
    state = create_state(model, optax.adam(1e-2), SHAPE, key=jax.random.key(0), ema=True)

    def epoch(number, start=0):
        return data.batches(examples, 16, key=key, epoch=number, train=True, start=start, mesh=mesh)

    state, history = fit(
        place(state, mesh),
        epoch,
        lambda: data.batches(split(21, "validation"), 16, mesh=mesh),
        epochs=2,
        train_step=step,
        progress=False,
    )
    leaves = jax.tree.leaves((state.params, state.batch_stats, state.ema))
    everywhere = all(leaf.is_fully_replicated for leaf in leaves)
    return {
        "values": np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves]).tolist(),
        "everywhere": everywhere,
        "val_loss": history["val_loss"],
        "devices": len(leaves[0].sharding.device_set),
    }


def evaluated(examples, mesh, step):
    """Return what evaluation found, and which examples the batches held."""
    part = split(examples, "test")
    state = create_state(TinyNet(CLASSES), optax.identity(), SHAPE, key=jax.random.key(3))
    seen = [int(i) for b in data.batches(part, 16, mesh=mesh) for i, m in zip(np.array(b.index), np.array(b.mask)) if m]
    metrics = evaluate(place(state, mesh), data.batches(part, 16, mesh=mesh), eval_step=step)
    return {
        "seen": seen,
        "loss_sum": float(metrics.loss_sum),
        "top1": int(metrics.top1_count),
        "count": metrics.examples,
    }


def in_numpy(examples):
    """Return the same from logits of one example at a time, worked out in float64."""
    part = split(examples, "test")
    state = create_state(TinyNet(CLASSES), optax.identity(), SHAPE, key=jax.random.key(3))
    images = (part.images / 255.0 - np.array(part.mean)) / np.array(part.std)
    logits = np.array(TinyNet(CLASSES).apply(state.variables, images.astype(np.float32)), np.float64)
    highest = logits.max(-1, keepdims=True)
    log_p = logits - highest - np.log(np.exp(logits - highest).sum(-1, keepdims=True))
    return {
        "loss_sum": -log_p[np.arange(examples), part.labels].sum(),
        "top1": int((logits.argmax(-1) == part.labels).sum()),
        "count": examples,
    }


def augmented(mesh):
    """Return a digest of an epoch's augmented images, in the order of the examples."""
    change = augment.parse(["translate:1", "flip"])
    apply = jax.jit(lambda batch: change(batch, jax.random.key(5)))
    found = {}
    for batch in data.batches(split(48), 16, key=jax.random.key(1), epoch=0, train=True, mesh=mesh):
        for index, image in zip(np.array(batch.index), np.array(apply(batch).image)):
            found[int(index)] = hashlib.sha256(image.tobytes()).hexdigest()
    return found


def main():
    step, eval_step = make_train_step(ema_decay=0.9), make_eval_step()
    micro = make_train_step(ema_decay=0.9, accumulate=2)
    found = {
        "train": {n: train(mesh, step) for n, mesh in meshes(1, 2, 4, 8).items()},
        "accumulated": {n: train(mesh, micro) for n, mesh in meshes(1, 4).items()},
        "evaluate": {
            examples: {n: evaluated(examples, mesh, eval_step) for n, mesh in meshes(1, 2, 3, 8).items()}
            for examples in (1, 5, 103)
        },
        "numpy": {examples: in_numpy(examples) for examples in (1, 5, 103)},
        "augmented": {n: augmented(mesh) for n, mesh in meshes(1, 4).items()},
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
