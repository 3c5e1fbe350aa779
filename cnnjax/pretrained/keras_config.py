"""What a Keras file's configuration says of its layers, compared with a model: weights alone fit other nets, too."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnnjax.pretrained.match import Plan
from cnnjax.pretrained.tensors import SourceFile, WeightsError

_SHOWN = 4
_NOTHING = (
    "It has no configuration: data_format, strides, padding, dilation, groups, activation, epsilon and axis were not "
    "compared with the model; channels_last is taken."
)
_COMPARED = (
    "Its configuration's strides, dilation, groups, padding, epsilon and axis were compared with the model; "
    "activations and pools were not."
)
# By Keras's names, those of linen's and our modules.
_SAME = {"strides": "strides", "dilation_rate": "kernel_dilation", "groups": "feature_group_count"}


def compare(file: SourceFile, plan: Plan, model: nn.Module) -> tuple[str, ...]:
    """Return what is to be said of a Keras file's configuration after comparing it with a model's layers.

    Args:
      file: The file.
      plan: Which of its tensors goes where.
      model: The model, with `input_shape`.
    Raises:
      WeightsError: If a layer computes other numbers in the file than in the model.
    """
    if not file.format.startswith("keras"):
        return ()
    if not file.config:
        return (_NOTHING,)
    modules, wrong = _modules(model), []
    first = any(facts.get("data_format") == "channels_first" for facts in file.config["layers"].values())
    for assignment in plan.assigned:
        layer = assignment.source.name.rpartition("/")[0]
        facts = file.config["layers"].get(layer, {})
        module, rank = modules.get(assignment.destinations[0].partition("/")[2].rpartition("/")[0], (None, 0))
        if module is not None:
            channels = {1, -1} if rank == 2 else {1} if first else {-1, rank - 1}
            wrong += [f"{layer}: {text}" for text in _differences(facts, module, file.config["pads"], channels)]
    if wrong := list(dict.fromkeys(wrong)):
        more = f", and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise WeightsError(f"{file.path}: its configuration is another net's: {'; '.join(wrong[:_SHOWN])}{more}.")
    unused = file.config["flatten"] == "CHW" and not any("(C" in a.transform.text for a in plan.assigned)
    said = "Its maps have their channels first, and no rule says flatten=: dense kernels are taken as they are."
    return (_COMPARED, said) if unused else (_COMPARED,)


def _differences(facts: Mapping[str, Any], module: nn.Module, pads: bool, channels: set[int]) -> list[str]:
    """Return what a layer's configuration says otherwise than a module, whose maps have their channels on an axis."""
    found = []
    for theirs, ours in _SAME.items():
        if theirs in facts and hasattr(module, ours) and _pair(facts[theirs]) != _pair(getattr(module, ours)):
            found.append(f"{theirs} {facts[theirs]}, the model's is {getattr(module, ours)}")
    epsilon = getattr(module, "epsilon", None)
    if "epsilon" in facts and epsilon is not None and not math.isclose(facts["epsilon"], epsilon, rel_tol=1e-5):
        found.append(f"epsilon {facts['epsilon']}, the model's is {epsilon}")
    axis = facts.get("axis")
    if epsilon is not None and isinstance(axis, list | int) and not {*_listed(axis)} <= channels:
        found.append(f"axis {axis}, the model normalises channels")
    padding = getattr(module, "padding", None)
    if padding is not None and "padding" in facts and not _same_padding(facts, module, pads):
        found.append(f"padding {facts['padding']!r}, the model's is {padding!r}")
    return found


def _same_padding(facts: Mapping[str, Any], module: Any, pads: bool) -> bool:
    """Return whether a convolution pads alike, as far as that can be told without the sizes of its maps."""
    unpadded = module.padding in ("VALID", 0, ((0, 0), (0, 0)))
    if _pair(module.kernel_size) == (1, 1) and (unpadded or module.padding == "SAME"):
        return True  # a window of one pixel needs no padding by either word
    if facts["padding"] == "valid":  # a layer of zeros before it may do what the model's convolution does itself
        return pads or unpadded
    if isinstance(module.padding, str):
        return module.padding == "SAME"
    if _pair(module.strides) != (1, 1):
        return False
    reach = [(k - 1) * d for k, d in zip(_pair(module.kernel_size), _pair(module.kernel_dilation), strict=True)]
    sides = (module.padding,) * 2 if isinstance(module.padding, int) else module.padding
    ours = [(p, p) if isinstance(p, int) else tuple(p) for p in sides]
    return ours == [(r // 2, r - r // 2) for r in reach]


def _pair(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value or 1, value or 1)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _modules(model: Any) -> dict[str, tuple[nn.Module, int]]:
    """Return a model's modules by their paths, each with the rank of what it is called on."""
    found: dict[str, tuple[nn.Module, int]] = {}

    def watch(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        rank = max((getattr(leaf, "ndim", 0) for leaf in jax.tree.leaves((args, kwargs))), default=0)
        found["/".join(context.module.path)] = (context.module, rank)
        return call(*args, **kwargs)

    with nn.intercept_methods(watch):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *model.input_shape), jnp.float32))
    return found
