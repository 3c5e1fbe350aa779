"""Keras's InceptionV3 (`keras.applications.InceptionV3`), whose convolutions have no names, only an order."""

from cnnjax.pretrained.naming import KERAS, Naming, Rule
from cnnjax.pretrained.rules.keras_counts import FORMATS, counted

_STEM = ("conv_1a", "conv_2a", "conv_2b", "conv_3b", "conv_4a")
# Keras lists a model's layers by their distance from its end, and those at the same distance as they were made: a block
# begins with its longest branch.
_A = ("3x3dbl_1", "5x5_1", "3x3dbl_2", "1x1", "5x5_2", "3x3dbl_3", "_pool")
_B = ("3x3dbl_1", "3x3dbl_2", "3x3", "3x3dbl_3")
_C = ("7x7dbl_1", "7x7dbl_2", "7x7_1", "7x7dbl_3", "7x7_2", "7x7dbl_4", "1x1", "7x7_3", "7x7dbl_5", "_pool")
_D = ("7x7x3_1", "7x7x3_2", "3x3_1", "7x7x3_3", "3x3_2", "7x7x3_4")
_E = ("3x3dbl_1", "3x3_1", "3x3dbl_2", "3x3_2a", "3x3_2b", "3x3dbl_3a", "3x3dbl_3b", "1x1", "_pool")
_BLOCKS = {"5b": _A, "5c": _A, "5d": _A, "6a": _B, "6b": _C, "6c": _C, "6d": _C, "6e": _C, "7a": _D, "7b": _E, "7c": _E}
_UNITS = (*_STEM, *(f"mixed_{block}/branch{branch}" for block, branches in _BLOCKS.items() for branch in branches))

RULES = (
    *counted("conv2d", [f"{unit}/conv" for unit in _UNITS]),
    *counted("batch_normalization", [f"{unit}/norm" for unit in _UNITS]),
    Rule("predictions", "head/logits"),
    *counted("dense", ["head/logits"]),
)
INCEPTION_V3 = Naming("keras", KERAS, RULES, formats=FORMATS)
