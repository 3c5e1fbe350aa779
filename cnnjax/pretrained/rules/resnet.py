"""Residual nets as torchvision names them; timm's names are the same."""

from cnnjax.pretrained.naming import TORCH, Naming, Rule

RULES = (
    Rule("conv1", "stem/conv"),
    Rule("bn1", "stem/norm"),
    Rule("layer{i}.{j}.conv{k}", "stage{i}_block{j}/conv{k}/conv"),
    Rule("layer{i}.{j}.bn{k}", "stage{i}_block{j}/conv{k}/norm"),
    Rule("layer{i}.{j}.downsample.0", "stage{i}_block{j}/shortcut/conv"),
    Rule("layer{i}.{j}.downsample.1", "stage{i}_block{j}/shortcut/norm"),
    Rule("fc", "head/logits"),
)
TORCHVISION, TIMM = Naming("torchvision", TORCH, RULES), Naming("timm", TORCH, RULES)
