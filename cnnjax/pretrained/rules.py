"""The names that each family's tensors have elsewhere, found by the module that defines a model's class."""

from collections.abc import Sequence
from typing import Any

from cnnjax.pretrained import mobile_rules
from cnnjax.pretrained.naming import CNNJAX, KERAS, KERAS_FORMATS, TORCH, Naming, Rule

_OPTIMIZER = "the optimizer's and the run's state, no part of the net"
# cnnjax's own names are the paths themselves; a file of `params` alone and one of a whole training state do too.
OWN = Naming(
    "cnnjax",
    CNNJAX,
    (
        Rule("params/{rest*}", "params/{rest*}"),
        Rule("batch_stats/{rest*}", "batch_stats/{rest*}"),
        Rule("opt_state/{rest*}", None, reason=_OPTIMIZER),
        Rule("ema/{rest*}", None, reason=_OPTIMIZER),
        Rule("callbacks/{rest*}", None, reason=_OPTIMIZER),
        Rule("step", None, reason=_OPTIMIZER),
        Rule("key", None, reason=_OPTIMIZER),
    ),
    formats=("safetensors", "msgpack", "orbax"),
)
OWN_PARAMS = Naming(
    "cnnjax (params alone)", CNNJAX, (Rule("{rest*}", "params/{rest*}"),), formats=("safetensors", "msgpack", "orbax")
)


def counted(stem: str, targets: Sequence[str]) -> tuple[Rule, ...]:
    """Return rules from `STEM`, `STEM_1`, `STEM_2`, ... to the targets in that order.

    Args:
      stem: The class of the layers in Keras's spelling, such as `conv2d`.
      targets: Modules of cnnjax.
    Example:
      >>> [rule.source for rule in counted("dense", ["head/dense1", "head/logits"])]
      ['dense', 'dense_1']
    """
    return tuple(Rule(f"{stem}_{n}" if n else stem, target) for n, target in enumerate(targets))


def _conv_norms(units: dict[str, str]) -> tuple[Rule, ...]:
    """Return the rules of units of a convolution and its normalisation, which torchvision calls `conv` and `bn`."""
    convs = (Rule(f"{source}.conv", f"{target}/conv") for source, target in units.items())
    return *convs, *(Rule(f"{source}.bn", f"{target}/norm") for source, target in units.items())


# AlexNet as torchvision names it: layers by their place in `features` and `classifier`.
_ALEXNET = (
    *(Rule(f"features.{place}", f"conv{number}/conv") for number, place in enumerate((0, 3, 6, 8, 10), 1)),
    Rule("classifier.1", "head/dense1", flatten=(6, 6)),
    Rule("classifier.4", "head/dense2"),
    Rule("classifier.6", "head/logits"),
)


# GoogLeNet as torchvision names it, its auxiliary heads too.
_GOOGLENET_UNITS = {
    "conv1": "conv1",
    "conv2": "conv2_reduce",
    "conv3": "conv2",
    "inception{block}.branch1": "inception_{block}/branch1",
    "inception{block}.branch2.0": "inception_{block}/branch3_reduce",
    "inception{block}.branch2.1": "inception_{block}/branch3",
    "inception{block}.branch3.0": "inception_{block}/branch5_reduce",
    "inception{block}.branch3.1": "inception_{block}/branch5",
    "inception{block}.branch4.1": "inception_{block}/branch_pool",
    "aux{i}.conv": "aux{i}/conv",
}
_GOOGLENET = (
    *_conv_norms(_GOOGLENET_UNITS),
    Rule("aux{i}.fc1", "aux{i}/dense1", flatten=(4, 4)),
    Rule("aux{i}.fc2", "aux{i}/logits"),
    Rule("fc", "head/logits"),
)


# InceptionV3 as torchvision names it (timm's names are the same), its auxiliary head too.
_INCEPTION_V3_UNITS = {
    "Conv2d_1a_3x3": "conv_1a",
    "Conv2d_2a_3x3": "conv_2a",
    "Conv2d_2b_3x3": "conv_2b",
    "Conv2d_3b_1x1": "conv_3b",
    "Conv2d_4a_3x3": "conv_4a",
    "Mixed_{block}.{unit}": "mixed_{block}/{unit}",
    "AuxLogits.conv{k}": "aux1/conv{k}",
}
_INCEPTION_V3 = (
    *_conv_norms(_INCEPTION_V3_UNITS),
    Rule("AuxLogits.fc", "aux1/logits"),
    Rule("fc", "head/logits"),
)


# Keras's InceptionV3 (`keras.applications.InceptionV3`), whose convolutions have no names, only an order.
_K3_STEM = ("conv_1a", "conv_2a", "conv_2b", "conv_3b", "conv_4a")
# Keras lists a model's layers by their distance from its end, and those at the same distance as they were made: a block
# begins with its longest branch.
_K3_A = ("3x3dbl_1", "5x5_1", "3x3dbl_2", "1x1", "5x5_2", "3x3dbl_3", "_pool")
_K3_B = ("3x3dbl_1", "3x3dbl_2", "3x3", "3x3dbl_3")
_K3_C = ("7x7dbl_1", "7x7dbl_2", "7x7_1", "7x7dbl_3", "7x7_2", "7x7dbl_4", "1x1", "7x7_3", "7x7dbl_5", "_pool")
_K3_D = ("7x7x3_1", "7x7x3_2", "3x3_1", "7x7x3_3", "3x3_2", "7x7x3_4")
_K3_E = ("3x3dbl_1", "3x3_1", "3x3dbl_2", "3x3_2a", "3x3_2b", "3x3dbl_3a", "3x3dbl_3b", "1x1", "_pool")
_K3_BLOCKS = {
    "5b": _K3_A,
    "5c": _K3_A,
    "5d": _K3_A,
    "6a": _K3_B,
    "6b": _K3_C,
    "6c": _K3_C,
    "6d": _K3_C,
    "6e": _K3_C,
    "7a": _K3_D,
    "7b": _K3_E,
    "7c": _K3_E,
}
_K3_UNITS = (
    *_K3_STEM,
    *(f"mixed_{block}/branch{branch}" for block, branches in _K3_BLOCKS.items() for branch in branches),
)

_KERAS_INCEPTION_V3 = (
    *counted("conv2d", [f"{unit}/conv" for unit in _K3_UNITS]),
    *counted("batch_normalization", [f"{unit}/norm" for unit in _K3_UNITS]),
    Rule("predictions", "head/logits"),
    *counted("dense", ["head/logits"]),
)


# Residual nets as torchvision names them; timm's names are the same, beside its own gates and deep stems.
_RESNET = (
    Rule("conv1", "stem/conv"),
    Rule("bn1", "stem/norm"),
    Rule("layer{i}.{j}.conv{k}", "stage{i}_block{j}/conv{k}/conv"),
    Rule("layer{i}.{j}.bn{k}", "stage{i}_block{j}/conv{k}/norm"),
    Rule("layer{i}.{j}.downsample.0", "stage{i}_block{j}/shortcut/conv"),
    Rule("layer{i}.{j}.downsample.1", "stage{i}_block{j}/shortcut/norm"),
    Rule("fc", "head/logits"),
)
_RESNET_D = (
    *(Rule(f"conv1.{3 * n}", f"{target}/conv") for n, target in enumerate(("stem1", "stem2", "stem"))),
    *(Rule(f"conv1.{3 * n + 1}", f"{target}/norm") for n, target in enumerate(("stem1", "stem2"))),
    # Place 0 is the average that has no weights.
    Rule("layer{i}.{j}.downsample.1", "stage{i}_block{j}/shortcut/conv"),
    Rule("layer{i}.{j}.downsample.2", "stage{i}_block{j}/shortcut/norm"),
)


def _resnet_timm(model: Any) -> tuple[Rule, ...]:
    gate = (
        Rule("layer{i}.{j}.se.fc1", "stage{i}_block{j}/gate/reduce"),
        Rule("layer{i}.{j}.se.fc2", "stage{i}_block{j}/gate/expand"),
    )
    return (*(_RESNET_D if model.deep_stem else ()), *_RESNET, *gate)


# Keras's ResNet-50, -101 and -152 (`keras.applications.ResNet50`, ...), version 1.
_KERAS_RESNET_NAMED = (
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
_KERAS_RESNET_FIRST, _KERAS_RESNET_LATER = ("conv1", "conv2", "shortcut", "conv3"), ("conv1", "conv2", "conv3")


def _keras_resnet(model: Any) -> tuple[Rule, ...]:
    units = ["stem"]
    for i, size in enumerate(model.stage_sizes, 1):
        units += [
            f"stage{i}_block{j}/{unit}"
            for j in range(size)
            for unit in (_KERAS_RESNET_LATER if j else _KERAS_RESNET_FIRST)
        ]
    # Some versions of Keras 3 write no names of layers.
    convolutions = counted("conv2d", [f"{unit}/conv" for unit in units])
    norms = counted("batch_normalization", [f"{unit}/norm" for unit in units])
    return (*_KERAS_RESNET_NAMED, *convolutions, *norms, *counted("dense", ["head/logits"]))


# VGG as torchvision and timm name it: layers by their place in `features`, activations and pools counted.
def _vgg_features(model: Any) -> list[Rule]:
    """Return the convolutions' rules: each takes two places, three with batch normalisation, a stage's pool one."""
    rules, place = [], 0
    for stage, size in enumerate(model.stage_sizes, 1):
        for number in range(1, size + 1):
            rules.append(Rule(f"features.{place}", f"stage{stage}_conv{number}/conv"))
            if model.batch_norm:
                rules.append(Rule(f"features.{place + 1}", f"stage{stage}_conv{number}/norm"))
            place += 3 if model.batch_norm else 2
        place += 1
    return rules


def _vgg_torchvision(model: Any) -> tuple[Rule, ...]:
    """Return torchvision's names; `classifier` has three places for a hidden layer, the activation and dropout too."""
    sizes, hidden = (model.map_size, model.map_size), len(model.hidden)
    dense = [Rule(f"classifier.{3 * n}", f"head/dense{n + 1}", flatten=None if n else sizes) for n in range(hidden)]
    return (
        *_vgg_features(model),
        *dense,
        Rule(f"classifier.{3 * hidden}", "head/logits", flatten=None if hidden else sizes),
    )


def _vgg_timm(model: Any) -> tuple[Rule, ...]:
    """Return timm's names; its dense layers are convolutions."""
    return (*_vgg_features(model), Rule("pre_logits.fc{i}", "head/dense{i}"), Rule("head.fc", "head/logits"))


# Keras's VGG-16 and VGG-19 (`keras.applications.VGG16`, `VGG19`).
_KERAS_VGG_NAMED = (
    Rule("block{i}_conv{k}", "stage{i}_conv{k}/conv"),
    Rule("fc{k}", "head/dense{k}"),
    Rule("predictions", "head/logits"),
)


def _keras_vgg(model: Any) -> tuple[Rule, ...]:
    convolutions = [f"stage{i}_conv{k}/conv" for i, size in enumerate(model.stage_sizes, 1) for k in range(1, size + 1)]
    sizes = (model.map_size, model.map_size)  # for nets whose maps have their channels first
    first = [Rule(name, "head/dense1", flatten=sizes) for name in ("fc1", "dense")]
    # Some versions of Keras 3 write no names of layers.
    dense = counted("dense", ["head/dense1", "head/dense2", "head/logits"])
    return (*first, *_KERAS_VGG_NAMED, *counted("conv2d", convolutions), *dense)


_NAMINGS: dict[str, tuple[Naming, ...]] = {
    **mobile_rules.NAMINGS,
    "alexnet": (Naming("torchvision", TORCH, _ALEXNET),),
    "googlenet": (Naming("torchvision", TORCH, _GOOGLENET),),
    "inception_v3": (
        Naming("torchvision", TORCH, _INCEPTION_V3),
        Naming("timm", TORCH, _INCEPTION_V3),
        Naming("keras", KERAS, _KERAS_INCEPTION_V3, formats=KERAS_FORMATS),
    ),
    "resnet": (
        Naming("torchvision", TORCH, _RESNET),
        Naming("timm", TORCH, _resnet_timm),
        Naming("keras", KERAS, _keras_resnet, formats=KERAS_FORMATS),
    ),
    "vgg": (
        Naming("torchvision", TORCH, _vgg_torchvision),
        Naming("timm", TORCH, _vgg_timm),
        Naming("keras", KERAS, _keras_vgg, formats=KERAS_FORMATS),
    ),
}


def namings_for(model: Any) -> tuple[Naming, ...]:
    """Return the namings that files for a model may have, cnnjax's own first.

    Args:
      model: A linen module; its class's module, or that of a class it derives from, says the family.
    """
    found: list[Naming] = [OWN, OWN_PARAMS]
    for cls in type(model).__mro__:
        room, _, family = cls.__module__.rpartition(".")
        if room == "cnnjax.models":
            found += [n for n in _NAMINGS.get(family, ()) if mobile_rules.has_form(model, family, n)]
    return tuple(found)
