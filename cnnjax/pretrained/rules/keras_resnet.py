"""Keras's ResNet-50, -101 and -152 (`keras.applications.ResNet50`, ...), version 1."""

from typing import Any

from cnnjax.pretrained.naming import KERAS, Naming, Rule
from cnnjax.pretrained.rules.keras_counts import FORMATS, counted

_NAMED = (
    Rule("conv1_conv", "stem/conv"),
    Rule("conv1_bn", "stem/norm"),
    Rule("conv{i}_block{j}_0_conv", "stage{i-1}_block{j-1}/shortcut/conv"),
    Rule("conv{i}_block{j}_0_bn", "stage{i-1}_block{j-1}/shortcut/norm"),
    Rule("conv{i}_block{j}_{k}_conv", "stage{i-1}_block{j-1}/conv{k}/conv"),
    Rule("conv{i}_block{j}_{k}_bn", "stage{i-1}_block{j-1}/conv{k}/norm"),
    Rule("predictions", "head/logits"),
    Rule("probs", "head/logits"),  # what it was called when Keras's files were published
)
# Keras lists a model's layers by their distance from its end: a shortcut comes just before the last convolution.
_FIRST, _LATER = ("conv1", "conv2", "shortcut", "conv3"), ("conv1", "conv2", "conv3")


def _rules(model: Any) -> tuple[Rule, ...]:
    units = ["stem"]
    for i, size in enumerate(model.stage_sizes, 1):
        units += [f"stage{i}_block{j}/{unit}" for j in range(size) for unit in (_LATER if j else _FIRST)]
    # Some versions of Keras 3 write no names of layers.
    convolutions = counted("conv2d", [f"{unit}/conv" for unit in units])
    norms = counted("batch_normalization", [f"{unit}/norm" for unit in units])
    return (*_NAMED, *convolutions, *norms, *counted("dense", ["head/logits"]))


RESNET_V1 = Naming("keras", KERAS, _rules, formats=FORMATS)
