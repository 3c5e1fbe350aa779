"""Train LeNet-5 with cnnjax's `fit`, an epoch a turn; started by bench/fit.py: DATA.npz BATCH_SIZE EPOCHS."""

import functools
import sys

import jax
import numpy as np
from turns import Turns

import cnnjax
from cnnjax.cli.loading import eval_batch_size
from cnnjax.data import Split, batches
from cnnjax.models import build
from cnnjax.training import Callback, Loop, Progress, create_state, fit, keep_freed_memory, make_optimizer


class Turn(Callback):
    """Take an epoch's turn and report how long it took."""

    def __init__(self, turns: Turns, batch_size: int):
        self.turns, self.batch_size = turns, batch_size

    def on_start(self, loop: Loop) -> None:
        self.turns.wait()

    def on_epoch(self, loop: Loop) -> None:
        seconds, row = self.turns.seconds, loop.history[-1]
        before = loop.history[-2]["step"] if len(loop.history) > 1 else 0
        images = (row["step"] - before) * self.batch_size
        train_seconds = images / row["images_per_second"]
        self.turns.report(
            images=images, train_seconds=train_seconds, epoch_seconds=seconds, val_accuracy=row["val_accuracy"]
        )
        if loop.epoch < loop.epochs:
            self.turns.wait()


def main(path: str, batch_size: int, epochs: int) -> None:
    turns = Turns()
    with np.load(path) as data:
        splits = {
            name: Split(
                name=name,
                images=data[f"{name}_images"],
                labels=data[f"{name}_labels"],
                ids=range(len(data[f"{name}_labels"])),
                mean=tuple(data["mean"].tolist()),
                std=tuple(data["std"].tolist()),
            )
            for name in ("train", "validation")
        }
    train, validation = splits["train"], splits["validation"]
    keep_freed_memory()
    state = create_state(
        build("lenet5", num_classes=10), make_optimizer("sgd", 0.01), train.image_shape, key=jax.random.key(0)
    )
    turns.report(version=f"cnnjax {cnnjax.__version__}, jax {jax.__version__}", params=state.num_params)
    fit(
        state,
        lambda epoch: batches(train, batch_size, key=jax.random.key(1), epoch=epoch, train=True),
        functools.partial(batches, validation, eval_batch_size(batch_size, validation.image_shape)),
        epochs=epochs,
        callbacks=[Progress(), Turn(turns, batch_size)],
        progress=False,
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
