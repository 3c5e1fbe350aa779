"""The state of a training run: everything that a step reads and writes."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

import cnnjax.training.ema as averages
from cnnjax.modes import train_kwargs
from cnnjax.training.freezing import freeze_optimizer, freeze_statistics, frozen_paths
from cnnjax.training.inputs import check_input_shape, check_key, check_model, check_optimizer

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
    apply_fn = _apply_fn(model)
    if freeze is not None:
        frozen = frozen_paths(collections["params"], freeze)
        log.info("%s of %s parameter arrays are frozen", len(frozen), len(jax.tree.leaves(collections["params"])))
        tx, apply_fn = freeze_optimizer(tx, freeze), freeze_statistics(apply_fn, freeze)
    state = TrainState(
        params=collections["params"],
        batch_stats=collections.get("batch_stats", {}),
        opt_state=jax.jit(tx.init)(collections["params"]),
        step=jnp.zeros((), jnp.int32),
        key=run_key,
        apply_fn=apply_fn,
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


def _apply_fn(model: nn.Module) -> Callable[..., Any]:
    """Return what is called as `apply(variables, x, train=...)`, whatever the module calls its modes."""
    return model.apply if train_kwargs(model, train=True) == {"train": True} else _Apply(model)


@dataclasses.dataclass(frozen=True)  # equal for equal models, so that a step is not compiled again
class _Apply:
    """A module's `apply` that translates `train`."""

    model: nn.Module

    def __call__(self, variables: Any, x: jax.Array, *, train: bool = False, **options: Any) -> Any:
        return self.model.apply(variables, x, **train_kwargs(self.model, train=train), **options)
