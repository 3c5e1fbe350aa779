"""The state of a training run: everything that a step reads and writes."""

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

import cnnjax.training.ema as averages
from cnnjax.errors import UsageError
from cnnjax.modes import in_evaluation, train_kwargs
from cnnjax.training.inputs import check_input_shape, check_key, check_model, check_optimizer
from cnnjax.training.optim import compile_pattern, parameter_paths, path_text

log = logging.getLogger("cnnjax")


class TrainState(struct.PyTreeNode):
    """Hold what a training step turns into its successor.

    Args:
      params: Parameters, a nested dict of arrays.
      batch_stats: Running statistics of the normalisation layers; empty for a net without any.
      opt_state: State of `tx`.
      step: Steps taken, int32 scalar.
      key: PRNG key of the run; each step derives its own by folding `step` in, so it never changes.
      apply_fn: The model's `apply`, called as `apply_fn(variables, x, train=..., ...)`; static.
      tx: The optimizer, an optax transformation; static.
      ema: Moving averages of `params` and `batch_stats`, with a `count` of the steps in them; empty without.
    """

    params: Any
    batch_stats: Any
    opt_state: Any
    step: Any
    key: Any
    apply_fn: Callable[..., Any] = struct.field(pytree_node=False)
    tx: optax.GradientTransformation = struct.field(pytree_node=False)
    ema: Any = struct.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, Any]:
        """The collections that `apply_fn` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats} if self.batch_stats else {"params": self.params}

    @property
    def averaged(self) -> "TrainState":
        """The state with the averages in place of what they average; itself without averages."""
        if not self.ema:
            return self
        return self.replace(params=self.ema["params"], batch_stats=self.ema["batch_stats"], ema={})

    @property
    def num_params(self) -> int:
        """Number of trainable parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    def __repr__(self) -> str:
        return f"TrainState(step={self.step}, {self.num_params:,} parameters)"


def create_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    input_shape: tuple[int, ...],
    *,
    key: jax.Array,
    variables: Mapping[str, Any] | None = None,
    freeze: str | None = None,
    ema: bool = False,
) -> TrainState:
    """Make the state of a new run and log the number of parameters.

    Args:
      model: A linen module called as `model(x)` or `model(x, train=...)`, or with another of the field's names for its
        modes (`cnnjax.modes`).
      tx: The optimizer.
      input_shape: Shape of one image `(H, W, C)` or of a batch `(N, H, W, C)`.
      key: PRNG key; the initial values and the run's own key are both derived from it.
      variables: Start from these instead of initialising, `{"params": ..., "batch_stats": ...}`; copied, because a
        step gives the state's memory away.
      freeze: A regular expression: parameters whose path it matches, such as `stem/conv/kernel`, keep their values bit
        for bit, and so do the running statistics whose path it matches, such as `stem/norm/mean`; those layers then
        normalise in training as in evaluation.
      ema: Whether to keep moving averages of parameters and statistics, see `make_train_step`.
    Returns:
      The state at step 0.
    Raises:
      UsageError: If an argument is of another kind, `freeze` matches no parameter, or all of them, or the model's modes
        have a name of their own.
      ValueError: If `input_shape` is neither of the two, or the model keeps variables that a step would not carry on.
    """
    check_model(model)
    check_optimizer(tx)
    check_input_shape(input_shape, used=variables is None)
    check_key(key)
    init_key, run_key = jax.random.split(key)
    if variables is None:
        shape = (1, *input_shape[-3:])
        collections = jax.jit(lambda k: _init(model, k, shape))(init_key)
    else:
        collections = jax.tree.map(jnp.array, dict(variables))
    unknown = set(collections) - {"params", "batch_stats"}
    if unknown:
        raise ValueError(
            f"create_state: expected only 'params' and 'batch_stats', got {sorted(unknown)} too. "
            "A training step does not carry other collections on."
        )
    if freeze is not None:
        frozen = frozen_paths(collections["params"], freeze)
        log.info("%s of %s parameter arrays are frozen", len(frozen), len(jax.tree.leaves(collections["params"])))
        tx = _freeze_optimizer(tx, freeze)
    state = TrainState(
        params=collections["params"],
        batch_stats=collections.get("batch_stats", {}),
        opt_state=jax.jit(tx.init)(collections["params"]),
        step=jnp.zeros((), jnp.int32),
        key=run_key,
        apply_fn=_apply_fn(model, freeze),
        tx=tx,
        ema=averages.init(collections["params"], collections.get("batch_stats", {})) if ema else {},
    )
    log.info("%s: %s parameters", type(model).__name__, f"{state.num_params:,}")
    return state


def _init(model: nn.Module, key: jax.Array, shape: tuple[int, ...]) -> dict[str, Any]:
    params_key, dropout_key = jax.random.split(key)
    variables = model.init(
        {"params": params_key, "dropout": dropout_key},
        jnp.zeros(shape, jnp.float32),
        **train_kwargs(model, train=False),
    )
    # What a module sows while it initialises is an output, not a part of the state.
    return {name: value for name, value in variables.items() if name != "intermediates"}


def frozen_paths(params: Any, pattern: str) -> list[str]:
    """Return the paths of the parameters in which a regular expression is found; refuse none and all of them."""
    regex = compile_pattern("freeze", pattern)
    paths = parameter_paths(params)
    frozen = [path for path in paths if regex.search(path)]
    if not frozen:
        raise UsageError(f"freeze: {pattern!r} matches no parameter. They are called, for example, {paths[0]}.")
    if len(frozen) == len(paths):
        raise UsageError(f"freeze: {pattern!r} matches every parameter; nothing would be trained.")
    return frozen


def _freeze_optimizer(tx: optax.GradientTransformation, pattern: str) -> optax.GradientTransformation:
    """Return an optimizer that leaves matching parameters alone, and keeps no state for them."""

    def labels(params: Any) -> Any:
        frozen = set(frozen_paths(params, pattern))
        return jax.tree_util.tree_map_with_path(
            lambda keys, _: "kept" if path_text(keys) in frozen else "trained", params
        )

    # Minus zero, since plus zero would turn a parameter of minus zero into plus zero.
    kept = optax.stateless(lambda updates, _: jax.tree.map(lambda u: jnp.full_like(u, -0.0), updates))
    return optax.multi_transform({"trained": tx, "kept": kept}, labels)


def _apply_fn(model: nn.Module, freeze: str | None) -> Callable[..., Any]:
    """Return what is called as `apply(variables, x, train=...)`, whatever the module calls its modes."""
    plain = freeze is None and train_kwargs(model, train=True) == {"train": True}
    return model.apply if plain else _Apply(model, freeze)


@dataclasses.dataclass(frozen=True)  # equal for equal models, so that a step is not compiled again
class _Apply:
    """A module's `apply` that translates `train`, and in which frozen statistics are used and left as they are.

    A normalisation layer is frozen if the pattern is found in the path of one of its statistics, such as
    `stem/norm/mean`: it then normalises in training as it does in evaluation, as Keras's layers do that are not
    trainable.
    """

    model: nn.Module
    freeze: str | None = None

    def __call__(self, variables: Any, x: jax.Array, *, train: bool = False, **options: Any) -> Any:
        options |= train_kwargs(self.model, train=train)
        if self.freeze is None:
            return self.model.apply(variables, x, **options)
        with nn.intercept_methods(self._intercept):
            found: Any = self.model.apply(variables, x, **options)
        if not options.get("mutable") or "batch_stats" not in found[1]:
            return found
        # Whatever a layer of another make did in spite of that.
        kept = jax.tree_util.tree_map_with_path(
            lambda keys, new, old: old if self._is_frozen(path_text(keys)) else new,
            found[1]["batch_stats"],
            variables["batch_stats"],
        )
        return found[0], {**found[1], "batch_stats": kept}

    def _is_frozen(self, path: str) -> bool:
        return self.freeze is not None and re.search(self.freeze, path) is not None

    def _intercept(self, call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name == "__call__":
            own = module.variables.get("batch_stats", {})
            names = [name for name, leaf in own.items() if hasattr(leaf, "shape")]
            if any(self._is_frozen("/".join((*module.path, name))) for name in names):
                args, kwargs = in_evaluation(module, args, kwargs)
        return call(*args, **kwargs)
