"""Writes files of a Keras net with everything in it random, and what the net gives for a random batch.

`python keras_files.py SPEC FOLDER`, in a process of its own, because Keras reads its backend once. It is torch:
independent of XLA, whose CPU compiler can get nets wrong that hold their weights as constants.
"""

import json
import math
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np

DENSE = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}
# The last layer of each stage; a stage of a single block adds nothing.
EFFICIENT = {
    0: ("a_project_bn", "b_add", "b_add", "c_add", "c_add", "d_add", "a_project_bn"),
    1: ("b_add", "c_add", "c_add", "d_add", "d_add", "e_add", "b_add"),
    5: ("c_add", "e_add", "e_add", "g_add", "g_add", "i_add", "c_add"),
}
# Where the maps are that cnnjax calls stage1, stage2, ...: layers' names; behind a < the layer that reads the map.
STAGES: dict[str, list[str]] = {
    "VGG16": [f"block{i}_pool" for i in range(1, 6)],
    "VGG19": [f"block{i}_pool" for i in range(1, 6)],
    "ResNet50": ["conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out"],
    "ResNet101": ["conv2_block3_out", "conv3_block4_out", "conv4_block23_out", "conv5_block3_out"],
    "ResNet152": ["conv2_block3_out", "conv3_block8_out", "conv4_block36_out", "conv5_block3_out"],
    "InceptionV3": ["activation_2", "activation_4", "mixed2", "mixed7", "mixed10"],
    "MobileNetV2": ["expanded_conv_project_BN", "block_2_add", "block_5_add", "block_12_add", "out_relu"],
    "MobileNetV3Small": ["activation", "expanded_conv_project_bn", "expanded_conv_2_add", "expanded_conv_7_add"],
    "MobileNetV3Large": ["expanded_conv_add", "expanded_conv_2_add", "expanded_conv_5_add", "expanded_conv_11_add"],
    **{
        f"DenseNet{n}": [f"conv{i + 2}_block{size}_concat" for i, size in enumerate(sizes)]
        for n, sizes in DENSE.items()
    },
    **{f"EfficientNetB{n}": [f"block{i}{last}" for i, last in enumerate(lasts, 1)] for n, lasts in EFFICIENT.items()},
    **{
        f"ConvNeXt{size}": [
            *(f"<convnext_{size.lower()}_downsampling_block_{i}" for i in range(3)),
            f"<convnext_{size.lower()}_head_gap",
        ]
        for size in ("Tiny", "Small", "Base")
    },
}


def write(folder: pathlib.Path, **spec: Any) -> dict[str, np.ndarray]:
    """Return what a net gives, after writing its files into a folder.

    Args:
      folder: Where `NET.h5`, `NET.weights.h5`, `NET.keras` go.
      **spec: `net`, its `options`, the `shape` of the images, the `formats`, the `dtype`, whether to give the input's
        `gradient`, and whether the images are `pixels` up to 255.
    """
    env = {**os.environ, "KERAS_BACKEND": "torch"}
    command = [sys.executable, __file__, json.dumps(spec), str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    with np.load(folder / "results.npz") as results:
        return dict(results)


def randomise(model: Any, rng: np.random.Generator) -> None:
    """Give every variable random values, running statistics too, that keep activations finite."""
    for variable in model.variables:
        shape, name = variable.shape, variable.path.rpartition("/")[2]
        if name == "kernel":
            depthwise = len(shape) == 4 and shape[3] == 1
            values = rng.standard_normal(shape, "f4") * (2 / math.prod(shape[: 2 if depthwise else -1])) ** 0.5
        elif name == "count":
            continue
        elif name in ("gamma", "moving_variance", "variance"):
            values = rng.uniform(0.5, 1.5, shape)
        else:
            values = rng.normal(0, 0.3, shape)
        variable.assign(values.astype("float32"))


def main(spec: dict[str, Any], folder: pathlib.Path) -> None:
    """Do what `write` says."""
    import keras
    import torch

    keras.config.set_floatx(spec["dtype"])
    if spec["dtype"] == "float64":  # Keras's batch normalisation would fall back to float32
        keras.src.backend.result_type = lambda *_: "float64"
    rng = np.random.default_rng(0)
    net = spec["net"]
    top = {"classifier_activation": None} if spec["options"].get("include_top", True) else {}
    model = getattr(keras.applications, net)(weights=None, **top, **spec["options"])
    randomise(model, rng)
    for ending in spec["formats"]:
        path = folder / f"{net}{ending}"
        if ending == ".weights.h5":
            model.save_weights(path)
        else:
            model.save(path)
    found = [
        model.get_layer(stage[1:]).input if stage.startswith("<") else model.get_layer(stage).output
        for stage in STAGES[net]
    ]
    probe = keras.Model(model.inputs, found + model.outputs)
    low, spread = (120, 60) if spec.get("pixels") else (0, 1)
    images = rng.normal(low, spread, spec["shape"]).astype("float32").astype(keras.config.floatx())
    x = torch.tensor(images, requires_grad=bool(spec["gradient"]))
    with torch.set_grad_enabled(bool(spec["gradient"])):
        *stages, output = probe(x, training=False)
    results = {f"stage{n}": stage.detach().numpy() for n, stage in enumerate(stages, 1)}
    if spec["gradient"]:
        weight = rng.normal(0, 1, tuple(output.shape)).astype(images.dtype)
        (output * torch.tensor(weight)).sum().backward()
        results |= {"weight": weight, "gradient": x.grad.numpy()}
    layers = [f"{type(layer).__name__} {layer.name}" for layer in model.layers if layer.weights]
    np.savez(folder / "results.npz", images=images, layers=layers, output=output.detach().numpy(), **results)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), pathlib.Path(sys.argv[2]))
