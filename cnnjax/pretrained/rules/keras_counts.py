"""Rules for layers that Keras only counts: the n-th convolution of the file is the n-th of the architecture."""

from collections.abc import Sequence

from cnnjax.pretrained.naming import Rule

FORMATS = ("keras-h5", "keras-weights-h5", "keras")


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
