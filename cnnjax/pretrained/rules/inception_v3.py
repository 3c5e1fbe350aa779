"""InceptionV3 as torchvision names it (timm's names are the same), its auxiliary head too."""

from cnnjax.pretrained.naming import TORCH, Naming, Rule

# Units of a convolution and its normalisation, which torchvision calls `conv` and `bn`.
_UNITS = {
    "Conv2d_1a_3x3": "conv_1a",
    "Conv2d_2a_3x3": "conv_2a",
    "Conv2d_2b_3x3": "conv_2b",
    "Conv2d_3b_1x1": "conv_3b",
    "Conv2d_4a_3x3": "conv_4a",
    "Mixed_{block}.{unit}": "mixed_{block}/{unit}",
    "AuxLogits.conv{k}": "aux1/conv{k}",
}
RULES = (
    *(Rule(f"{source}.conv", f"{target}/conv") for source, target in _UNITS.items()),
    *(Rule(f"{source}.bn", f"{target}/norm") for source, target in _UNITS.items()),
    Rule("AuxLogits.fc", "aux1/logits"),
    Rule("fc", "head/logits"),
)
TORCHVISION, TIMM = Naming("torchvision", TORCH, RULES), Naming("timm", TORCH, RULES)
