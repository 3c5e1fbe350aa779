"""Optimizers and learning-rate schedules by name; every one of them is optax's."""

import collections
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from cnnjax.errors import UsageError, unknown

Schedule = Callable[[Any], Any]
Mask = Callable[[Any], Any]

# Each takes the rate, the momentum, the decay and which parameters it applies to.
_OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": lambda rate, momentum, *decay: _decayed(optax.sgd(rate), *decay),
    "momentum": lambda rate, momentum, *decay: _decayed(optax.sgd(rate, momentum), *decay),
    "nesterov": lambda rate, momentum, *decay: _decayed(optax.sgd(rate, momentum, nesterov=True), *decay),
    "adam": lambda rate, momentum, *decay: _decayed(optax.adam(rate), *decay),
    "adamw": lambda rate, momentum, decay, mask: optax.adamw(rate, weight_decay=decay, mask=mask),
    "lars": lambda rate, momentum, decay, mask: optax.lars(
        rate, weight_decay=decay, weight_decay_mask=_everywhere if mask is None else mask, momentum=momentum
    ),
    "lamb": lambda rate, momentum, decay, mask: optax.lamb(rate, weight_decay=decay, mask=mask),
    "rmsprop": lambda rate, momentum, *decay: _decayed(_rmsprop(rate, momentum), *decay),
}
OPTIMIZERS = tuple(_OPTIMIZERS)
SCHEDULES = ("constant", "cosine", "step", "one-cycle")
_WITH_MOMENTUM = ("momentum", "nesterov", "lars", "rmsprop")


def make_optimizer(
    name: str,
    learning_rate: float | Schedule,
    *,
    momentum: float | None = None,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    decay_mask: Mask | None = None,
    rate_factors: Mapping[str, float] | None = None,
) -> optax.GradientTransformation:
    """Return optax's optimizer of that name.

    Weight decay is decoupled for adamw, lamb and lars, as their papers have it, and is added to the gradient (an L2
    penalty) for the others. RMSProp's are the constants that the Inception nets were trained with: decay 0.9, 1.0 added
    to the mean square before its root is taken.

    Args:
      name: One of `OPTIMIZERS`.
      learning_rate: A number or a schedule `step -> number`.
      momentum: Share of the last update that is kept, for momentum, nesterov, lars and rmsprop; None for 0.9.
      weight_decay: Share of each parameter that is taken off a step, before the learning rate.
      clip_norm: Gradients whose norm, all together, is greater are scaled down to it first; None for no limit.
      decay_mask: `params -> tree of bool`, which parameters decay, such as `only_kernels`; None for all.
      rate_factors: By what the learning rate is multiplied where a parameter's path, such as `stem/conv/kernel`,
        matches a regular expression; the first that matches counts, and 1 where none does.
    Returns:
      The transformation.
    Raises:
      UsageError: If the name is not known, a number is out of range, or an option is given that has no use here.
    """
    if name not in _OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    unused = unused_options(optimizer=name, weight_decay=weight_decay)
    _refuse_unused("make_optimizer", unused, momentum=momentum, decay_mask=decay_mask)
    momentum = 0.9 if momentum is None else momentum
    if not 0 <= momentum < 1 or not 0 <= weight_decay < math.inf:
        raise UsageError(
            f"make_optimizer: expected momentum in [0, 1) and weight_decay >= 0, got {momentum} and {weight_decay}."
        )
    if clip_norm is not None and not 0 < clip_norm < math.inf:
        raise UsageError(f"make_optimizer: expected clip_norm > 0, got {clip_norm}.")
    tx = _OPTIMIZERS[name](learning_rate, momentum, weight_decay, decay_mask)
    if rate_factors:
        tx = optax.chain(tx, scale_by_path(rate_factors))
    return tx if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), tx)


def make_schedule(
    name: str,
    learning_rate: float,
    total_steps: int,
    *,
    warmup_steps: int = 0,
    boundaries: tuple[float, ...] | None = None,
    factor: float | None = None,
) -> Schedule:
    """Return the learning rate as a function of the step.

    Args:
      name: `constant`; `cosine` (to 0 at the end); `step` (times `factor` at each boundary); `one-cycle` (up over the
        first 30 %, then down to nearly 0).
      learning_rate: The greatest value.
      total_steps: Steps of the whole run, warm-up included.
      warmup_steps: Steps of a linear rise from 0 that comes before the rest.
      boundaries: For `step`: where the rate falls, each as a share of the steps that follow the warm-up; None for a
        half and three quarters. Of two that come to one step both count.
      factor: For `step`: what the rate is multiplied by at each boundary; None for 0.1.
    Returns:
      `step -> learning rate`, usable inside jit.
    Raises:
      UsageError: If the name is not known, a number is out of range, or an option is given that has no use here.
    Example:
      >>> rate = make_schedule("cosine", 0.1, total_steps=100, warmup_steps=10)
      >>> [round(float(rate(step)), 4) for step in (0, 5, 10, 55, 100)]
      [0.0, 0.05, 0.1, 0.05, 0.0]
    """
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
    _refuse_unused("make_schedule", unused_options(schedule=name), boundaries=boundaries, factor=factor)
    if not 0 < learning_rate < math.inf or total_steps < 1 or not 0 <= warmup_steps < total_steps:
        raise UsageError(
            f"make_schedule: expected learning_rate > 0 and 0 <= warmup_steps < total_steps, got learning_rate="
            f"{learning_rate}, warmup_steps={warmup_steps}, total_steps={total_steps}."
        )
    if boundaries is not None and not all(0 < share < 1 for share in boundaries):
        raise UsageError(f"make_schedule: expected boundaries as shares of the steps, in (0, 1), got {boundaries}.")
    rest = total_steps - warmup_steps
    if name == "constant":
        main = optax.constant_schedule(learning_rate)
    elif name == "cosine":
        main = optax.cosine_decay_schedule(learning_rate, rest)
    elif name == "step":
        times = collections.Counter(int(share * rest) for share in ((0.5, 0.75) if boundaries is None else boundaries))
        factor = 0.1 if factor is None else factor
        main = optax.piecewise_constant_schedule(learning_rate, {step: factor**n for step, n in times.items()})
    else:
        main = optax.cosine_onecycle_schedule(rest, learning_rate)
    if not warmup_steps:
        return main
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup_steps), main], [warmup_steps])


def unused_options(
    *, optimizer: str | None = None, schedule: str | None = None, weight_decay: float | None = None
) -> dict[str, str]:
    """Return the options of `make_optimizer` and `make_schedule` that a choice has no use for, each with the reason.

    Args:
      optimizer: One of `OPTIMIZERS`; None, here and below, for no matter which.
      schedule: One of `SCHEDULES`.
      weight_decay: The share that decays.
    """
    unused = {}
    if optimizer is not None and optimizer not in _WITH_MOMENTUM:
        unused["momentum"] = f"{optimizer} has no momentum. Leave it out, or take {', '.join(_WITH_MOMENTUM)}"
    if schedule is not None and schedule != "step":
        reason = f"the {schedule} schedule does not fall in steps. Leave it out, or take step"
        unused |= {"boundaries": reason, "factor": reason}
    if weight_decay == 0:
        unused["decay_mask"] = "no parameter decays. Leave it out, or give a weight decay"
    return unused


def _refuse_unused(where: str, unused: Mapping[str, str], **given: Any) -> None:
    for name, value in given.items():
        if value is not None and name in unused:
            raise UsageError(f"{where}: {name}: {unused[name]}.")


def only_kernels(params: Any) -> Any:
    """Return which parameters have more than one axis: kernels, but no biases and none of normalisation's.

    Args:
      params: Parameters, a nested dict.
    References:
      Goyal et al., 2017, https://arxiv.org/abs/1706.02677, section 5.3, leaves normalisation's undecayed; He et al.,
      2018, https://arxiv.org/abs/1812.01187, section 3.1, biases too.
    """
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def scale_by_path(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Return a transformation that multiplies updates by a number that depends on the parameter's path.

    Args:
      factors: Regular expressions, searched for in paths such as `stem/conv/kernel`, with their numbers; the first that
        matches counts.
    Raises:
      UsageError: If one is no regular expression or no number, or, once the parameters are known, matches none.
    """
    patterns = {compile_pattern("rate factors", pattern): factor for pattern, factor in factors.items()}
    for pattern, factor in patterns.items():
        if not 0 <= factor < math.inf:
            raise UsageError(f"rate factors: expected a number of at least 0 for {pattern.pattern!r}, got {factor}.")

    def init(params: Any) -> optax.EmptyState:
        paths = parameter_paths(params)
        for pattern in patterns:
            if not any(pattern.search(path) for path in paths):
                raise UsageError(
                    f"rate factors: {pattern.pattern!r} matches no parameter. They are called, for example, {paths[0]}."
                )
        return optax.EmptyState()

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
        del params

        def scaled(keys: Any, leaf: jax.Array) -> jax.Array:
            path = path_text(keys)
            factor = next((f for pattern, f in patterns.items() if pattern.search(path)), None)
            return leaf if factor is None else leaf * factor

        return jax.tree_util.tree_map_with_path(scaled, updates), state

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]  optax's names its arguments


def _everywhere(params: Any) -> Any:
    return jax.tree.map(lambda _: True, params)


def _rmsprop(rate: Any, momentum: float | None) -> optax.GradientTransformation:
    return optax.rmsprop(rate, decay=0.9, eps=1.0, eps_in_sqrt=True, momentum=momentum or None)


def _decayed(tx: optax.GradientTransformation, decay: float, mask: Mask | None) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(decay, mask), tx) if decay else tx


def path_text(keys: Any) -> str:
    """Return a path of JAX's tree functions as text, such as `stem/conv/kernel`."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in keys)


def parameter_paths(params: Any) -> list[str]:
    """Return the paths of all parameters, or of their shapes."""
    return [path_text(keys) for keys, _ in jax.tree_util.tree_flatten_with_path(params)[0]]


def compile_pattern(what: str, pattern: str) -> re.Pattern[str]:
    """Return a regular expression, or refuse its text, which is `what`'s."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UsageError(f"{what}: expected a regular expression, got {pattern!r}: {error}.") from None
