"""The one part of a model that a file may differ in: its head, as wide as there are classes."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from cnnjax.pretrained.match import Plan, Shapes

# Nothing of this size is made, it is only traced; but a file that claims more is none of a classifier.
_MOST_CLASSES = 10_000_000


def allow_other_head(
    plan: Plan, model: nn.Module, shapes: Shapes, shapes_of: Callable[[nn.Module], Shapes]
) -> tuple[Plan, list[str], dict[str, str]]:
    """Return a plan without those problems that come from another head alone.

    The head is whatever changes its shape with the model's `num_classes`, and is not there with `include_top=False`:
    the model itself is asked, so that nothing else can pass for one.

    Args:
      plan: What matching found.
      model: The model.
      shapes: Its parameters.
      shapes_of: Gives those of another model.
    Returns:
      The plan, the parameters that stay at their initialisation, and the tensors that are not taken with the reason.
    """
    classes = getattr(model, "num_classes", None)
    if not plan.problems or classes is None:
        return plan, [], {}
    skipped: dict[str, str] = {}
    if getattr(model, "include_top", True) is False:
        top = set(shapes_of(model.clone(include_top=True))) - set(shapes)
        skipped = {
            name: "the model was built with include_top=False" for name, path in plan.left_over.items() if path in top
        }
        left = {name: path for name, path in plan.left_over.items() if name not in skipped}
        return dataclasses.replace(plan, left_over=left), [], skipped
    found = other_classes(plan, model, shapes, shapes_of)
    if found is None:
        return plan, [], {}
    head = [path for assignment in plan.misshaped for path in assignment.destinations]
    reason = f"the file has {found} classes, the model {classes}: its head is not taken"
    return dataclasses.replace(plan, misshaped=[]), head, {a.source.name: reason for a in plan.misshaped}


def other_classes(plan: Plan, model: nn.Module, shapes: Shapes, shapes_of: Callable[[nn.Module], Shapes]) -> int | None:
    """Return the number of classes of a file if exactly the head differs from the model's, or None.

    Args:
      plan: What matching found.
      model: The model.
      shapes: Its parameters.
      shapes_of: Gives those of another model.
    """
    classes = getattr(model, "num_classes", None)
    widths = {a.transform.target[-1] for a in plan.misshaped if len(a.transform.target) == 1}
    if classes is None or len(widths) != 1 or plan.missing or plan.left_over or plan.doubled:
        return None
    found = widths.pop()
    if found == classes or not 0 < found < _MOST_CLASSES:
        return None
    other = shapes_of(model.clone(num_classes=found))
    head = {path for path in shapes if other.get(path) != shapes[path]}
    given = {path: a.transform.target for a in plan.misshaped for path in a.destinations}
    return found if given.keys() == head and all(other.get(path) == given[path] for path in head) else None


def initialise(model: nn.Module, paths: Sequence[str]) -> dict[str, np.ndarray]:
    """Return some parameters as `model.init` with `jax.random.key(0)` makes them.

    Args:
      model: A linen module with `input_shape`.
      paths: Which.
    """
    if not paths:
        return {}

    def chosen(key: jax.Array) -> dict[str, jax.Array]:
        variables: Any = model.init(key, jnp.zeros((1, *model.input_shape), jnp.float32))
        flat: dict[str, Any] = traverse_util.flatten_dict(dict(variables), sep="/")
        return {path: flat[path] for path in paths}

    # Inside jit, nothing but these parameters is computed.
    return {path: np.asarray(value) for path, value in jax.jit(chosen)(jax.random.key(0)).items()}
