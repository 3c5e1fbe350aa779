"""Fine-tuning: parameters and running statistics that stay as they are, bit for bit."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from cnnjax.errors import UsageError
from cnnjax.modes import in_evaluation
from cnnjax.training.optim import compile_pattern, parameter_paths, path_text


def frozen_paths(params: Any, pattern: str) -> list[str]:
    """Return the paths of the parameters that a pattern freezes, such as `stage1_block0/conv1/conv/kernel`.

    Args:
      params: Parameters, or their shapes.
      pattern: A regular expression, searched for in each path.
    Raises:
      UsageError: If it is no regular expression, or matches none or all of them.
    """
    regex = compile_pattern("freeze", pattern)
    paths = parameter_paths(params)
    frozen = [path for path in paths if regex.search(path)]
    if not frozen:
        raise UsageError(f"freeze: {pattern!r} matches no parameter. They are called, for example, {paths[0]}.")
    if len(frozen) == len(paths):
        raise UsageError(f"freeze: {pattern!r} matches every parameter; nothing would be trained.")
    return frozen


def freeze_optimizer(tx: optax.GradientTransformation, pattern: str) -> optax.GradientTransformation:
    """Return an optimizer that leaves the parameters alone whose path a pattern matches, and keeps no state for them.

    Args:
      tx: The optimizer of the others.
      pattern: See `frozen_paths`.
    """

    def labels(params: Any) -> Any:
        frozen = set(frozen_paths(params, pattern))
        return jax.tree_util.tree_map_with_path(
            lambda keys, _: "kept" if path_text(keys) in frozen else "trained", params
        )

    # Minus zero, since plus zero would turn a parameter of minus zero into plus zero.
    kept = optax.stateless(lambda updates, _: jax.tree.map(lambda u: jnp.full_like(u, -0.0), updates))
    return optax.multi_transform({"trained": tx, "kept": kept}, labels)


def freeze_statistics(apply_fn: Callable[..., Any], pattern: str) -> Callable[..., Any]:
    """Return an `apply_fn` in which normalisation layers with frozen statistics use them and leave them as they are.

    A layer is frozen if the pattern matches the path of one of its statistics, such as `stem/norm/mean`: it then
    normalises in training as it does in evaluation, as Keras's layers do that are not trainable.

    Args:
      apply_fn: A linen module's `apply`, or what calls it.
      pattern: See `frozen_paths`.
    """
    regex = re.compile(pattern)

    def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name == "__call__":
            own = module.variables.get("batch_stats", {})
            if any(
                regex.search("/".join((*module.path, name))) for name, leaf in own.items() if hasattr(leaf, "shape")
            ):
                args, kwargs = in_evaluation(module, args, kwargs)
        return call(*args, **kwargs)

    def apply(variables: Any, *args: Any, **kwargs: Any) -> Any:
        with nn.intercept_methods(intercept):
            found = apply_fn(variables, *args, **kwargs)
        if not kwargs.get("mutable") or "batch_stats" not in found[1]:
            return found
        # Whatever a layer of another make did in spite of that.
        kept = jax.tree_util.tree_map_with_path(
            lambda keys, new, old: old if regex.search(path_text(keys)) else new,
            found[1]["batch_stats"],
            variables["batch_stats"],
        )
        return found[0], {**found[1], "batch_stats": kept}

    return apply
