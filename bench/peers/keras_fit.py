"""Train LeNet-5 with Keras 3's `fit`, an epoch a turn; started by bench/fit.py: DATA.npz BATCH_SIZE EPOCHS.

KERAS_BACKEND says on which backend. Everything else is as the Keras documentation has it: NumPy arrays, `compile` and
`fit` with their defaults. It needs keras, numpy and the backend; not cnnjax.
"""

import importlib
import os
import sys
from typing import Any

from turns import Turns

turns = Turns()
backend = os.environ["KERAS_BACKEND"]
try:
    importlib.import_module(backend)
    import keras
    import numpy as np
    from keras import layers
except ImportError as error:
    turns.report(skipped=str(error))
    sys.exit()


class Turn(keras.callbacks.Callback):
    """Take an epoch's turn and report how long it took."""

    def __init__(self, images: int):
        super().__init__()
        self.images = images
        self.train_seconds = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        turns.wait()

    def on_test_begin(self, logs: Any = None) -> None:
        # Steps may still be under way on the device: the newest parameters are there once all are done.
        keras.ops.convert_to_numpy(self.model.trainable_variables[-1])
        self.train_seconds = turns.seconds

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        turns.report(
            images=self.images,
            train_seconds=self.train_seconds,
            epoch_seconds=turns.seconds,
            val_accuracy=float(logs["val_accuracy"]),
        )


def lenet5() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(6, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(16, 5, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(120, activation="relu"),
            layers.Dense(84, activation="relu"),
            layers.Dense(10),
        ]
    )


def main(path: str, batch_size: int, epochs: int) -> None:
    with np.load(path) as data:
        mean, std = (data[name].astype(np.float32) for name in ("mean", "std"))
        train, validation = (
            ((data[f"{name}_images"].astype(np.float32) / 255 - mean) / std, data[f"{name}_labels"])
            for name in ("train", "validation")
        )
    keras.utils.set_random_seed(0)
    model = lenet5()
    model.compile(
        optimizer=keras.optimizers.SGD(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile="auto",
    )
    library = importlib.import_module(backend)
    turns.report(version=f"keras {keras.__version__}, {backend} {library.__version__}", params=model.count_params())
    model.fit(
        *train,
        batch_size=batch_size,
        epochs=epochs,
        validation_data=validation,
        shuffle=True,
        callbacks=[Turn(len(train[0]))],
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
