"""What a classifier is made of, checked when it is made: later, Python's own words would be all there is."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn

from cnnjax import pretrained
from cnnjax.errors import UsageError
from cnnjax.pretrained import Preprocess


def checked_parts(
    model: Any, variables: Any, preprocess: Any, class_names: Any
) -> tuple[nn.Module, Mapping[str, Any], Preprocess | None, tuple[str, ...]]:
    """Return a classifier's four parts, a preprocessing's name as what it names, after checking that they are these.

    Raises:
      UsageError: If one is something else, or there are more or fewer names than logits.
    """
    if not isinstance(model, nn.Module):
        hint = f"Write Classifier.from_pretrained({model!r})" if isinstance(model, str) else "Give a linen module"
        raise UsageError(f"Classifier: expected a Flax linen module as model, got {type(model).__name__}. {hint}.")
    if not isinstance(variables, Mapping) or "params" not in variables:
        found = sorted(map(str, variables))[:3] if isinstance(variables, Mapping) else type(variables).__name__
        raise UsageError(
            f"Classifier: expected variables as {{'params': ..., 'batch_stats': ...}}, got {found}. "
            "Give state.variables, or what cnnjax.pretrained.load returned first."
        )
    if isinstance(preprocess, str):
        preprocess = pretrained.preprocess(preprocess).of_size(getattr(model, "input_shape", None))
    if preprocess is not None and not isinstance(preprocess, Preprocess):
        raise UsageError(
            f"Classifier: expected cnnjax.pretrained.preprocess(NAME), its name, or None as preprocess, got "
            f"{type(preprocess).__name__}."
        )
    if isinstance(class_names, str) or not isinstance(class_names, Sequence):
        raise UsageError(
            f"Classifier: expected class_names as a list of texts in the order of the logits, got "
            f"{type(class_names).__name__}. Give dataset.info.class_names, or list(map(str, range(10)))."
        )
    if odd := [name for name in class_names if not isinstance(name, str | int)]:
        raise UsageError(f"Classifier: expected texts or numbers as class_names, got {odd[0]!r}.")
    count = getattr(model, "num_classes", None)
    if isinstance(count, int) and count != len(class_names):
        raise UsageError(f"Classifier: expected {count} class_names, one a logit, got {len(class_names)}.")
    return model, variables, preprocess, tuple(map(str, class_names))
