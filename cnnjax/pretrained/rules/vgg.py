"""VGG as torchvision and timm name it: layers by their place in `features`, activations and pools counted."""

from typing import Any

from cnnjax.pretrained.naming import TORCH, Naming, Rule


def _features(model: Any) -> list[Rule]:
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


def torchvision(model: Any) -> tuple[Rule, ...]:
    """Return torchvision's names; `classifier` has three places for a hidden layer, the activation and dropout too."""
    sizes, hidden = (model.map_size, model.map_size), len(model.hidden)
    dense = [Rule(f"classifier.{3 * n}", f"head/dense{n + 1}", flatten=None if n else sizes) for n in range(hidden)]
    return (
        *_features(model),
        *dense,
        Rule(f"classifier.{3 * hidden}", "head/logits", flatten=None if hidden else sizes),
    )


def timm(model: Any) -> tuple[Rule, ...]:
    """Return timm's names; its dense layers are convolutions."""
    return (*_features(model), Rule("pre_logits.fc{i}", "head/dense{i}"), Rule("head.fc", "head/logits"))


TORCHVISION, TIMM = Naming("torchvision", TORCH, torchvision), Naming("timm", TORCH, timm)
