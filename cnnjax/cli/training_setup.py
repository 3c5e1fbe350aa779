"""What a run trains with: model, state, steps and batches, made of a recipe, its data and the devices."""

import argparse
import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cnnjax import Classifier, devices, model_loading
from cnnjax.classifier import eval_batch_size
from cnnjax.cli import starting_weights, train_options
from cnnjax.cli.output import Output
from cnnjax.cli.starting_weights import Start
from cnnjax.data import Dataset, augment, batches, epoch_range
from cnnjax.data.order import AnySplit
from cnnjax.errors import UsageError
from cnnjax.pretrained import Preprocess
from cnnjax.recipes import Recipe
from cnnjax.training import (
    LOSSES,
    Batch,
    TrainState,
    balanced_class_weights,
    class_weighted,
    create_state,
    make_eval_step,
    make_optimizer,
    make_schedule,
    make_train_step,
    only_kernels,
)
from cnnjax.training.gradients import has_auxiliary_heads
from cnnjax.training.optim import Schedule, unused_options
from cnnjax.training.step import EvalStep, TrainStep


@dataclasses.dataclass
class Setup:
    """Hold what a run trains with.

    Args:
      recipe: Every number of it.
      dataset: Its data.
      model: The net.
      state: The state at step 0.
      train_step: The training step.
      eval_step: The evaluation step.
      rate: Learning rate by the step.
      mesh: The devices that share a batch; None for one.
      data_key: PRNG key of the examples' order.
      preprocess: How the weights that it starts from want their images; None for the dataset's own way.
    """

    recipe: Recipe
    dataset: Dataset
    model: nn.Module
    state: TrainState
    train_step: TrainStep
    eval_step: EvalStep
    rate: Schedule
    mesh: jax.sharding.Mesh | None
    data_key: jax.Array
    preprocess: Preprocess | None = None

    @property
    def epoch_steps(self) -> int:
        """Steps of the first epoch."""
        return len(epoch_range(len(self.dataset.train), self.recipe.batch_size, 0))

    def place(self, state: TrainState) -> TrainState:
        """Return the state with a copy on each device."""
        return state if self.mesh is None else devices.replicate(state, self.mesh)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Return an epoch's training batches, from the given one on."""
        options: Any = {"start": start, "mesh": self.mesh, "sampling": self.recipe.sampling}
        size, key = self.recipe.batch_size, self.data_key
        return batches(self.dataset.train, size, key=key, epoch=epoch, train=True, **options)

    def whole(self, split: AnySplit) -> Iterator[Batch]:
        """Return the batches of a split that is evaluated."""
        size = eval_batch_size(split.image_shape, self.recipe.batch_size)
        return batches(split, size, mesh=self.mesh)


def prepare(
    recipe: Recipe, args: argparse.Namespace, out: Output, dataset: Dataset, start: Start | None = None
) -> Setup:
    """Make everything that a run trains with, and refuse what does not fit together.

    Args:
      recipe: What to train.
      args: The options that do not decide the result.
      out: Where to speak.
      dataset: Its data.
      start: The weights that it starts from.
    Raises:
      UsageError: If the model can't take the images, the devices can't share a batch, or the like.
      CnnjaxError: If weights can't be read.
    """
    mesh = _mesh(recipe, args)
    classes, shape = dataset.info.num_classes, dataset.train.image_shape
    options = {"precision": recipe.precision, "options": recipe.model_options}
    model = model_loading.build_model(recipe.model, classes, **options)
    rule = starting_weights.for_grey_or_colours(start, recipe.model, dataset, out)
    model_loading.check_output(model, (*shape[:2], shape[2] if rule is None else rule.depth), classes)
    for option, wanted in (("--patience", recipe.patience), ("--keep-best", args.keep_best)):
        if wanted and recipe.monitor.startswith("val_") and not len(dataset.validation):
            raise UsageError(f"{option}: nothing to watch, {recipe.monitor} needs validation examples (--validation).")
    init_key, data_key = jax.random.split(jax.random.key(args.seed))
    total_steps = epoch_range(len(dataset.train), recipe.batch_size, recipe.epochs - 1).stop
    window = train_options.profile_window(args)
    if window is not None and window[0] >= total_steps:
        raise UsageError(f"--profile: the run has steps 0 to {total_steps - 1}, none of them in {args.profile}.")
    rate, tx = _optimizer(recipe, len(dataset.train), total_steps)
    settings: Any = {"key": init_key, "freeze": args.freeze, "ema": recipe.ema is not None}
    if start is None:
        state = create_state(model, tx, shape, **settings)
    else:
        variables = starting_weights.load(model, start, init_key, args, out)
        state = Classifier(model, variables, rule, dataset.info.class_names).create_state(dataset, tx, **settings)
    images = jax.ShapeDtypeStruct((1, *shape), "float32")
    if args.aux_weight is not None and not has_auxiliary_heads(state, images):
        raise UsageError(f"--aux-weight: {recipe.model} has no auxiliary heads. Leave it out.")
    train_step = _train_step(recipe, dataset)
    _check_step(train_step, state, shape, recipe.batch_size)
    setup = Setup(
        recipe=recipe,
        dataset=dataset,
        model=model,
        state=state,
        train_step=train_step,
        eval_step=make_eval_step(loss=LOSSES[recipe.loss], flip_tta=recipe.flip_tta),
        rate=rate,
        mesh=mesh,
        data_key=data_key,
        preprocess=rule,
    )
    return dataclasses.replace(setup, state=setup.place(state))


def check_extension(setup: Setup, epochs: int, path: str, *, ended: bool) -> None:
    """Refuse more epochs for a run where its steps so far would have been others, had it been made for as many.

    Args:
      setup: Of the longer run.
      epochs: What the run was made for.
      path: Its workdir.
      ended: Whether it has come to its end.
    Raises:
      UsageError: With what would differ, and how a new run starts from this one.
    """
    recipe, examples = setup.recipe, len(setup.dataset.train)
    steps = epoch_range(examples, recipe.batch_size, epochs - 1).stop
    before, _ = _optimizer(recipe.replace(epochs=epochs), examples, steps)
    was, would_be = (np.asarray(jax.vmap(rate)(jnp.arange(steps))) for rate in (before, setup.rate))
    if recipe.patience and ended:
        reason = "it ended with the parameters of its best epoch (--patience), and only those of its last could go on"
    elif (was != would_be).any():
        step = int((was != would_be).argmax())
        reason = (
            f"its {recipe.schedule} schedule was made for them: at step {step + 1} the learning rate was "
            f"{was[step]:.6g}, and of {recipe.epochs} epochs it would have been {would_be[step]:.6g}"
        )
    else:
        return
    raise UsageError(
        f"--epochs {recipe.epochs}: the run in {path} was made for {epochs} epoch{'s' if epochs > 1 else ''}, and "
        f"can't have more: {reason}. "
        f"To start a new run from what it learned: --weights {path} --epochs {recipe.epochs - epochs} --workdir NEW."
    )


def _check_step(train_step: TrainStep, state: TrainState, image_shape: tuple[int, ...], batch_size: int) -> None:
    """Refuse a step that can't be taken, by tracing it; nothing is computed."""
    images = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32)
    numbers, mask = (jax.ShapeDtypeStruct((batch_size,), dtype) for dtype in (jnp.int32, jnp.bool_))
    try:
        jax.eval_shape(train_step, state, Batch(images, numbers, mask, index=numbers, epoch=numbers))
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"a training step can't be taken on images of shape {image_shape}: {error}") from error


def _mesh(recipe: Recipe, args: argparse.Namespace) -> jax.sharding.Mesh | None:
    if args.devices is not None and jax.process_count() > 1:
        raise UsageError("--devices: several processes train on all of their devices; leave it out.")
    mesh = devices.data_mesh(args.devices)
    if mesh.devices.size == 1:
        return None
    devices.check_batch_size(recipe.batch_size, mesh)
    if recipe.batch_size // recipe.accumulate % mesh.devices.size:
        raise UsageError(
            f"--accumulate {recipe.accumulate}: {mesh.devices.size} devices can't share the "
            f"{recipe.batch_size // recipe.accumulate} examples of a micro-batch evenly."
        )
    return mesh


def _optimizer(recipe: Recipe, examples: int, total_steps: int) -> tuple[Schedule, Any]:
    if not 0 < recipe.learning_rate < math.inf:
        raise UsageError(f"--learning-rate: expected a number above 0, got {recipe.learning_rate}.")
    warmup_steps = round(recipe.warmup_epochs * examples / recipe.batch_size)
    options = {
        "momentum": recipe.momentum,
        "decay_mask": only_kernels if recipe.decay_mask == "kernels" else None,
        "boundaries": recipe.boundaries,
        "factor": recipe.lr_decay,
    }
    # What a recipe gives for another choice than the one that was made; what was asked for has been refused.
    for name in unused_options(optimizer=recipe.optimizer, schedule=recipe.schedule, weight_decay=recipe.weight_decay):
        options[name] = None
    rate = make_schedule(
        recipe.schedule,
        recipe.learning_rate,
        total_steps,
        warmup_steps=warmup_steps,
        boundaries=options["boundaries"],
        factor=options["factor"],
    )
    return rate, make_optimizer(
        recipe.optimizer,
        rate,
        momentum=options["momentum"],
        weight_decay=recipe.weight_decay,
        clip_norm=recipe.clip_norm,
        decay_mask=options["decay_mask"],
        rate_factors=train_options.rate_factors(recipe),
    )


def _train_step(recipe: Recipe, dataset: Dataset) -> TrainStep:
    # A recipe's smoothing is for its own loss; what was asked for with another has been refused.
    options = {} if recipe.loss == "mse" else {"label_smoothing": recipe.label_smoothing}
    loss = functools.partial(LOSSES[recipe.loss], **options)
    if recipe.class_weights:
        loss = class_weighted(loss, balanced_class_weights(dataset.train.labels, dataset.info.num_classes))
    return make_train_step(
        loss=loss,
        augment=augment.parse(recipe.augment, mean=dataset.info.mean, std=dataset.info.std),
        aux_weight=recipe.aux_weight,
        accumulate=recipe.accumulate,
        ema_decay=recipe.ema,
        remat=recipe.remat,
        skip_nonfinite=recipe.on_nan == "skip",
    )
