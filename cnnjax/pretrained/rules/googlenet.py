"""GoogLeNet as torchvision names it, its auxiliary heads too."""

from cnnjax.pretrained.naming import TORCH, Naming, Rule

# Units of a convolution and its normalisation, which torchvision calls `conv` and `bn`.
_UNITS = {
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
RULES = (
    *(Rule(f"{source}.conv", f"{target}/conv") for source, target in _UNITS.items()),
    *(Rule(f"{source}.bn", f"{target}/norm") for source, target in _UNITS.items()),
    Rule("aux{i}.fc1", "aux{i}/dense1", flatten=(4, 4)),
    Rule("aux{i}.fc2", "aux{i}/logits"),
    Rule("fc", "head/logits"),
)
TORCHVISION = Naming("torchvision", TORCH, RULES)
