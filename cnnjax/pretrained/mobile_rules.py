"""The names that the tensors of depthwise and dense families have elsewhere; see `rules`.

torchvision numbers the parts of a block through, so that their places depend on what the block has: these rules are
made for one model.
"""

import string
from collections.abc import Callable, Iterator
from typing import Any

from cnnjax.pretrained.naming import KERAS, KERAS_FORMATS, TORCH, Naming, Rule

_PARTS = ("expand", "depthwise", "project")


def _unit(source: str, target: str, separator: str = ".") -> tuple[Rule, Rule]:
    """Return the rules of a convolution and its normalisation at places 0 and 1."""
    return Rule(f"{source}{separator}0", f"{target}/conv"), Rule(f"{source}{separator}1", f"{target}/norm")


def mobilenet_v2_torchvision(model: Any) -> tuple[Rule, ...]:
    """Return torchvision's names; the first block, which widens nothing, has one part less."""
    rules, number = [*_unit("features.0", "stem")], 0
    for expansion, _, blocks, _ in model.stages:
        for _ in range(blocks):
            source, target, place = f"features.{number + 1}.conv", f"block{number}", 0
            for part in ("expand", "depthwise")[expansion == 1 :]:
                rules += _unit(f"{source}.{place}", f"{target}/{part}")
                place += 1
            rules.append(Rule(f"{source}.{place}", f"{target}/project/conv"))
            rules.append(Rule(f"{source}.{place + 1}", f"{target}/project/norm"))
            number += 1
    return (*rules, *_unit(f"features.{number + 1}", "last"), Rule("classifier.1", "head/logits"))


def mobilenet_v3_torchvision(model: Any) -> tuple[Rule, ...]:
    """Return torchvision's names of MobileNetV3, whose dense layers are in `classifier`."""
    rules, channels = [*_unit("features.0", "stem")], 16
    for number, block in enumerate(model.blocks):
        source, target = f"features.{number + 1}.block", f"block{number}"
        rules += _gated(source, target, expands=block.expanded != channels, gated=block.gated)
        channels = block.features
    rules += _unit(f"features.{len(model.blocks) + 1}", "last")
    return (*rules, Rule("classifier.0", "head/dense1"), Rule("classifier.3", "head/logits"))


def efficientnet_torchvision(model: Any) -> tuple[Rule, ...]:
    """Return torchvision's names of EfficientNet: `features` holds the stem, the stages and the last convolution."""
    rules = [*_unit("features.0", "stem")]
    for stage, (row, size) in enumerate(zip(model.stages, model.stage_sizes, strict=True), 1):
        for number in range(size):
            source, target = f"features.{stage}.{number}.block", f"stage{stage}_block{number}"
            rules += _gated(source, target, expands=row[0] != 1, gated=True)
    return (*rules, *_unit(f"features.{len(model.stages) + 1}", "last"), Rule("classifier.1", "head/logits"))


def _gated(source: str, target: str, *, expands: bool, gated: bool) -> Iterator[Rule]:
    place = 0
    for part in ("expand", "depthwise")[not expands :]:
        yield from _unit(f"{source}.{place}", f"{target}/{part}")
        place += 1
    if gated:
        yield Rule(f"{source}.{place}.fc1", f"{target}/gate/reduce")
        yield Rule(f"{source}.{place}.fc2", f"{target}/gate/expand")
        place += 1
    yield from _unit(f"{source}.{place}", f"{target}/project")


def _keras_units(source: str, target: str, *, conv: str = "", norm: str) -> tuple[Rule, Rule]:
    return Rule(f"{source}{conv}", f"{target}/conv"), Rule(f"{source}{norm}", f"{target}/norm")


KERAS_MOBILENET_V2 = (
    Rule("Conv1", "stem/conv"),
    Rule("bn_Conv1", "stem/norm"),
    *(
        rule
        for part in _PARTS
        for prefix, block in (("expanded_conv_", "block0"), ("block_{k}_", "block{k}"))
        for rule in _keras_units(f"{prefix}{part}", f"{block}/{part}", norm="_BN")
    ),
    *_keras_units("Conv_1", "last", norm="_bn"),
    Rule("predictions", "head/logits"),
    Rule("Logits", "head/logits"),
)

# The files that Keras publishes have Keras 2's names, with slashes and capital letters.
_KERAS_2_MOBILENET_V3 = (
    *_keras_units("Conv", "stem", norm="/BatchNorm"),
    *(
        rule
        for prefix, block in (("expanded_conv", "block0"), ("expanded_conv_{k}", "block{k}"))
        for rule in (
            *(r for part in _PARTS for r in _keras_units(f"{prefix}/{part}", f"{block}/{part}", norm="/BatchNorm")),
            Rule(f"{prefix}/squeeze_excite/Conv", f"{block}/gate/reduce"),
            Rule(f"{prefix}/squeeze_excite/Conv_1", f"{block}/gate/expand"),
        )
    ),
    *_keras_units("Conv_1", "last", norm="/BatchNorm"),
    Rule("Conv_2", "head/dense1"),
    Rule("Logits", "head/logits"),
)
KERAS_MOBILENET_V3 = (
    *_KERAS_2_MOBILENET_V3,
    *_keras_units("conv", "stem", norm="_bn"),
    *(
        rule
        for prefix, block in (("expanded_conv_", "block0"), ("expanded_conv_{k}_", "block{k}"))
        for rule in (
            *(r for part in _PARTS for r in _keras_units(f"{prefix}{part}", f"{block}/{part}", norm="_bn")),
            Rule(f"{prefix}squeeze_excite_conv", f"{block}/gate/reduce"),
            Rule(f"{prefix}squeeze_excite_conv_1", f"{block}/gate/expand"),
        )
    ),
    *_keras_units("conv_1", "last", norm="_bn"),
    Rule("conv_2", "head/dense1"),
    Rule("logits", "head/logits"),
)


def keras_efficientnet(model: Any) -> tuple[Rule, ...]:
    """Return Keras's names of EfficientNet, which letters the blocks of a stage."""
    rules = [*_keras_units("stem", "stem", conv="_conv", norm="_bn")]
    for stage, size in enumerate(model.stage_sizes, 1):
        for number in range(size):
            source, target = f"block{stage}{string.ascii_lowercase[number]}", f"stage{stage}_block{number}"
            rules += _keras_units(source, f"{target}/expand", conv="_expand_conv", norm="_expand_bn")
            rules += _keras_units(source, f"{target}/depthwise", conv="_dwconv", norm="_bn")
            rules += _keras_units(source, f"{target}/project", conv="_project_conv", norm="_project_bn")
            rules.append(Rule(f"{source}_se_reduce", f"{target}/gate/reduce"))
            rules.append(Rule(f"{source}_se_expand", f"{target}/gate/expand"))
    counter = "a counter of the examples that its statistics were taken of"
    return (
        Rule("normalization/mean", "batch_stats/normalization/mean"),
        Rule("normalization/variance", "batch_stats/normalization/var"),
        Rule("normalization/count", None, reason=counter),
        *rules,
        *_keras_units("top", "last", conv="_conv", norm="_bn"),
        Rule("predictions", "head/logits"),
    )


# DenseNet as torchvision and timm name it; the files that torchvision publishes have a dot before each number.
DENSENET = (
    Rule("features.conv0", "stem/conv"),
    Rule("features.norm0", "stem/norm"),
    *(
        Rule(f"features.denseblock{{i}}.denselayer{{j}}.{part}{dot}{{k}}", f"block{{i}}/layer{{j}}/conv{{k}}/{part}")
        for dot in ("", ".")
        for part in ("conv", "norm")
    ),
    Rule("features.transition{i}.conv", "transition{i}/conv"),
    Rule("features.transition{i}.norm", "transition{i}/norm"),
    Rule("features.norm5", "norm"),
    Rule("classifier", "head/logits"),
)
KERAS_DENSENET = (
    # Some versions, and the files that Keras publishes, have a slash in the stem's names.
    *(rule for joint in "_/" for rule in _keras_units("conv1", "stem", conv=f"{joint}conv", norm=f"{joint}bn")),
    Rule("conv{i}_block{j}_0_bn", "block{i-1}/layer{j}/conv1/norm"),
    Rule("conv{i}_block{j}_1_conv", "block{i-1}/layer{j}/conv1/conv"),
    Rule("conv{i}_block{j}_1_bn", "block{i-1}/layer{j}/conv2/norm"),
    Rule("conv{i}_block{j}_2_conv", "block{i-1}/layer{j}/conv2/conv"),
    Rule("pool{i}_conv", "transition{i-1}/conv"),
    Rule("pool{i}_bn", "transition{i-1}/norm"),
    Rule("bn", "norm"),
    Rule("predictions", "head/logits"),
    Rule("fc1000", "head/logits"),
)


def convnext_torchvision(model: Any) -> tuple[Rule, ...]:
    """Return torchvision's names of ConvNeXt: `features` alternates between what lies before a stage and the stage."""
    rules = [Rule("features.0.0", "stem"), Rule("features.0.1", "stem_norm")]
    for stage in range(1, len(model.stage_sizes) + 1):
        source, target = f"features.{2 * stage - 1}.{{j}}", f"stage{stage}_block{{j}}"
        places = {0: "depthwise", 2: "norm", 3: "dense1", 5: "dense2"}
        rules += [Rule(f"{source}.block.{place}", f"{target}/{part}") for place, part in places.items()]
        rules.append(Rule(f"{source}.layer_scale", f"params/{target}/layer_scale/scale"))
        rules.append(Rule(f"features.{2 * stage}.0", f"downsample{stage}_norm"))
        rules.append(Rule(f"features.{2 * stage}.1", f"downsample{stage}"))
    return (*rules, Rule("classifier.0", "norm"), Rule("classifier.2", "head/logits"))


CONVNEXT_TIMM = (
    Rule("stem.0", "stem"),
    Rule("stem.1", "stem_norm"),
    Rule("stages.{i}.downsample.0", "downsample{i}_norm"),
    Rule("stages.{i}.downsample.1", "downsample{i}"),
    Rule("stages.{i-1}.blocks.{j}.conv_dw", "stage{i}_block{j}/depthwise"),
    Rule("stages.{i-1}.blocks.{j}.norm", "stage{i}_block{j}/norm"),
    Rule("stages.{i-1}.blocks.{j}.mlp.fc{k}", "stage{i}_block{j}/dense{k}"),
    Rule("stages.{i-1}.blocks.{j}.gamma", "params/stage{i}_block{j}/layer_scale/scale"),
    Rule("head.norm", "norm"),
    Rule("head.fc", "head/logits"),
)
# Keras's names begin with the net's own name, its stem and what lies between stages are nested models.
_KERAS_CONVNEXT_UNITS = {
    "stem_conv": "stem",
    "stem_layernorm": "stem_norm",
    "downsampling_layernorm_{i-1}": "downsample{i}_norm",
    "downsampling_conv_{i-1}": "downsample{i}",
    "stage_{i-1}_block_{j}_depthwise_conv": "stage{i}_block{j}/depthwise",
    "stage_{i-1}_block_{j}_layernorm": "stage{i}_block{j}/norm",
    "stage_{i-1}_block_{j}_pointwise_conv_{k}": "stage{i}_block{j}/dense{k}",
    "head_layernorm": "norm",
    "head_dense": "head/logits",
}
KERAS_CONVNEXT = (
    *(
        Rule(f"{folder}convnext_{{size}}_{source}", target)
        for source, target in _KERAS_CONVNEXT_UNITS.items()
        for folder in ("", "{folder}/")
    ),
    Rule("convnext_{size}_stage_{i-1}_block_{j}_layer_scale/{array}", "params/stage{i}_block{j}/layer_scale/scale"),
    Rule("layer_normalization", "norm"),
)

NAMINGS: dict[str, tuple[Naming, ...]] = {
    "convnext": (
        Naming("torchvision", TORCH, convnext_torchvision),
        Naming("timm", TORCH, CONVNEXT_TIMM),
        Naming("keras", KERAS, KERAS_CONVNEXT, formats=KERAS_FORMATS),
    ),
    "densenet": (
        Naming("torchvision", TORCH, DENSENET),
        Naming("timm", TORCH, DENSENET),
        Naming("keras", KERAS, KERAS_DENSENET, formats=KERAS_FORMATS),
    ),
    "efficientnet": (
        Naming("torchvision", TORCH, efficientnet_torchvision),
        Naming("keras", KERAS, keras_efficientnet, formats=KERAS_FORMATS),
    ),
    "mobilenet_v2": (
        Naming("torchvision", TORCH, mobilenet_v2_torchvision),
        Naming("keras", KERAS, KERAS_MOBILENET_V2, formats=KERAS_FORMATS),
    ),
    "mobilenet_v3": (
        Naming("torchvision", TORCH, mobilenet_v3_torchvision),
        Naming("keras", KERAS, KERAS_MOBILENET_V3, formats=KERAS_FORMATS),
    ),
}
# Families whose parameters have the same shapes in either publisher's form while other numbers come out, and whether a
# model has Keras's: no file of the other's is taken for it.
_KERAS_FORMS: dict[str, Callable[[Any], bool]] = {
    "convnext": lambda model: model.normalized,
    "densenet": lambda model: model.epsilon > 1e-5,
    "efficientnet": lambda model: model.same_padding,
    "mobilenet_v2": lambda model: model.same_padding,
    "mobilenet_v3": lambda model: model.same_padding,
}


def has_form(model: Any, family: str, naming: Naming) -> bool:
    """Return whether a model of a family has the form of the naming's publisher."""
    keras = _KERAS_FORMS.get(family)
    return keras is None or keras(model) == (naming.layout is KERAS)
