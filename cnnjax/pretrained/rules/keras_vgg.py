"""Keras's VGG-16 and VGG-19 (`keras.applications.VGG16`, `VGG19`)."""

from typing import Any

from cnnjax.pretrained.naming import KERAS, Naming, Rule
from cnnjax.pretrained.rules.keras_counts import FORMATS, counted

_NAMED = (
    Rule("block{i}_conv{k}", "stage{i}_conv{k}/conv"),
    Rule("fc{k}", "head/dense{k}"),
    Rule("predictions", "head/logits"),
)


def _rules(model: Any) -> tuple[Rule, ...]:
    convolutions = [f"stage{i}_conv{k}/conv" for i, size in enumerate(model.stage_sizes, 1) for k in range(1, size + 1)]
    sizes = (model.map_size, model.map_size)  # for nets whose maps have their channels first
    first = [Rule(name, "head/dense1", flatten=sizes) for name in ("fc1", "dense")]
    # Some versions of Keras 3 write no names of layers.
    dense = counted("dense", ["head/dense1", "head/dense2", "head/logits"])
    return (*first, *_NAMED, *counted("conv2d", convolutions), *dense)


VGG = Naming("keras", KERAS, _rules, formats=FORMATS)
