"""The one part of a model that a file may differ in or lack: its head, as wide as there are classes."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from cnnjax.pretrained.match import Plan, Shapes

# Nothing of this size is made, it is only traced; but a file that claims more is not a classifier's.
_MOST_CLASSES = 10_000_000

ShapesOf = Callable[[nn.Module], Shapes]


class Head(NamedTuple):
    """What becomes of the head.

    Args:
      plan: What matching found, without those problems that come from another head alone.
      initialised: The parameters that stay at their initialisation.
      skipped: The tensors that are not taken, with the reason.
      num_classes: Classes of the file where its head is not taken, 0 where it has none; None where it fits.
    """

    plan: Plan
    initialised: list[str] = []  # noqa: RUF012  never changed
    skipped: dict[str, str] = {}  # noqa: RUF012
    num_classes: int | None = None


def allow_other_head(plan: Plan, model: nn.Module, shapes: Shapes, shapes_of: ShapesOf) -> Head:
    """Return what becomes of the head where a file has another one, or none.

    The head is whatever changes its shape with the model's `num_classes`, and is not there with `include_top=False`:
    the model itself is asked, so that nothing else can pass for one.

    Args:
      plan: What matching found.
      model: The model.
      shapes: Its parameters.
      shapes_of: Gives those of another model.
    """
    classes = getattr(model, "num_classes", None)
    if not plan.problems or classes is None:
        return Head(plan)
    if getattr(model, "include_top", True) is False:
        top = set(shapes_of(model.clone(include_top=True))) - set(shapes)
        reason = "the model was built with include_top=False"
        skipped = {name: reason for name, path in plan.left_over.items() if path in top}
        left = {name: path for name, path in plan.left_over.items() if name not in skipped}
        return Head(dataclasses.replace(plan, left_over=left), skipped=skipped)
    if _lacks_head(plan, model, shapes, shapes_of):
        return Head(dataclasses.replace(plan, missing=[]), plan.missing, num_classes=0)
    found = _other_classes(plan, model, shapes, shapes_of)
    if found is None:
        return Head(plan)
    head = [path for assignment in plan.misshaped for path in assignment.destinations]
    reason = f"the file has {found} classes, the model {classes}: its head is not taken"
    skipped = {a.source.name: reason for a in plan.misshaped}
    return Head(dataclasses.replace(plan, misshaped=[]), head, skipped, found)


def initialise(model: nn.Module, paths: Sequence[str], key: jax.Array) -> dict[str, np.ndarray]:
    """Return some parameters as `model.init(key, ...)` makes them.

    Args:
      model: A linen module with `input_shape`.
      paths: Which.
      key: PRNG key.
    """
    if not paths:
        return {}

    def chosen(key: jax.Array) -> dict[str, jax.Array]:
        variables: Any = model.init(key, jnp.zeros((1, *model.input_shape), jnp.float32))
        flat: dict[str, Any] = traverse_util.flatten_dict(dict(variables), sep="/")
        return {path: flat[path] for path in paths}

    # Inside jit, nothing but these parameters is computed.
    return {path: np.asarray(value) for path, value in jax.jit(chosen)(key).items()}


def replace_head(model: nn.Module, variables: Any, key: jax.Array) -> dict[str, Any]:
    """Return a model's variables, taken from those of the same model with another head as far as they fit.

    Args:
      model: A linen module with `input_shape`.
      variables: Of the other.
      key: PRNG key of the new head.
    """
    images = jax.ShapeDtypeStruct((1, *model.input_shape), jnp.float32)
    shapes: Any = traverse_util.flatten_dict(dict(jax.eval_shape(model.init, key, images)), sep="/")
    old: Any = traverse_util.flatten_dict(dict(variables), sep="/")
    fresh = [path for path, leaf in shapes.items() if path not in old or old[path].shape != leaf.shape]
    kept = {path: old[path] for path in shapes if path not in fresh}
    return traverse_util.unflatten_dict(kept | initialise(model, fresh, key), sep="/")


def _lacks_head(plan: Plan, model: nn.Module, shapes: Shapes, shapes_of: ShapesOf) -> bool:
    """Return whether all that is missing is the last layer, or all that `include_top=False` leaves out."""
    if plan.left_over or plan.misshaped or plan.doubled or not plan.assigned:
        return False
    missing = set(plan.missing)
    if hasattr(model, "include_top") and missing == set(shapes) - set(shapes_of(model.clone(include_top=False))):
        return True
    return missing == _class_dependent(shapes, shapes_of(model.clone(num_classes=model.num_classes + 1)))


def _other_classes(plan: Plan, model: nn.Module, shapes: Shapes, shapes_of: ShapesOf) -> int | None:
    """Return the number of classes of a file if exactly the head differs from the model's, or None."""
    widths = {a.transform.target[-1] for a in plan.misshaped if len(a.transform.target) == 1}
    if len(widths) != 1 or plan.missing or plan.left_over or plan.doubled:
        return None
    found = widths.pop()
    if found == model.num_classes or not 0 < found < _MOST_CLASSES:
        return None
    other = shapes_of(model.clone(num_classes=found))
    head = _class_dependent(shapes, other)
    given = {path: a.transform.target for a in plan.misshaped for path in a.destinations}
    return found if given.keys() == head and all(other.get(path) == given[path] for path in head) else None


def _class_dependent(shapes: Shapes, other: Shapes) -> set[str]:
    """Return the paths of the parameters whose shapes differ in a model of another number of classes."""
    return {path for path in shapes if other.get(path) != shapes[path]}
