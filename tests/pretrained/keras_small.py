"""Writes a small Keras net with random weights in each of Keras's formats; `python keras_small.py FOLDER`.

The net has named layers and unnamed ones, a nested model, half-precision weights, normalisations with and without
gamma and beta, and the state of an optimizer.
"""

import os
import pathlib
import subprocess
import sys

import numpy as np

ENDINGS = (".h5", ".weights.h5", ".keras")


def write(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the values as Keras has them, by cnnjax's names, after writing `net.h5` and so on into a folder."""
    env = {**os.environ, "KERAS_BACKEND": "numpy"}  # the one that takes least time to import
    subprocess.run([sys.executable, __file__, str(folder)], env=env, check=True, capture_output=True)
    with np.load(folder / "values.npz") as values:
        return dict(values)


def main(folder: pathlib.Path) -> None:
    """Do what `write` says."""
    import keras
    from keras import layers

    rng = np.random.default_rng(0)
    layers.Conv2D(1, 1, name=None)  # so that Keras's own numbers do not begin with 0
    inner = [layers.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.BatchNormalization(scale=False)]
    inner += [layers.Dropout(0.5, seed=1), layers.Conv2D(4, 3, use_bias=False), layers.BatchNormalization(center=False)]
    x = layers.Input((8, 8, 3))
    y = layers.Conv2D(3, 1, name="first", dtype="float16")(x)
    y = keras.Sequential(inner, name="body")(layers.Activation("relu")(y))
    y = layers.GlobalAveragePooling2D()(layers.BatchNormalization(name="last_norm")(y))
    net = keras.Model(x, layers.Dense(5, name="logits")(layers.Dense(6)(layers.Dense(7)(y))))
    net.compile("adam", "mse")
    net.optimizer.build(net.trainable_variables)
    for variable in net.variables:
        if variable.dtype != "uint32":
            variable.assign(rng.normal(0, 1, variable.shape).astype(variable.dtype))
    for ending in ENDINGS:
        path = folder / f"net{ending}"
        _ = net.save_weights(path) if ending == ".weights.h5" else net.save(path)
    body = net.get_layer("body").layers
    found = {
        "first": net.get_layer("first"),
        "last_norm": net.get_layer("last_norm"),
        "logits": net.get_layer("logits"),
    }
    found |= {"body/conv2d": body[0], "body/batch_normalization": body[1]}
    found |= {"body/conv2d_1": body[3], "body/batch_normalization_1": body[4]}
    dense = [layer for layer in net.layers if isinstance(layer, layers.Dense)]
    found |= {"dense": dense[0], "dense_1": dense[1]}
    values = {f"{name}/{v.name}": np.array(v.value) for name, layer in found.items() for v in layer.weights}
    np.savez(folder / "values.npz", **values)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
