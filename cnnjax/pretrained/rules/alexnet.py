"""AlexNet as torchvision names it: layers by their place in `features` and `classifier`."""

from cnnjax.pretrained.naming import TORCH, Naming, Rule

RULES = (
    *(Rule(f"features.{place}", f"conv{number}/conv") for number, place in enumerate((0, 3, 6, 8, 10), 1)),
    Rule("classifier.1", "head/dense1", flatten=(6, 6)),
    Rule("classifier.4", "head/dense2"),
    Rule("classifier.6", "head/logits"),
)
TORCHVISION = Naming("torchvision", TORCH, RULES)
