"""What a training run is made of: every number that decides it, in one frozen record."""

import dataclasses
from collections.abc import Mapping
from typing import Any

# What fields were called in the records of earlier versions.
RENAMED = {"factor": "lr_decay", "decay": "decay_mask", "rates": "lr_multipliers", "test_flip": "flip_tta"}
# Fields that earlier versions did not have: recorded only where they are not what those did.
_ADDED = ("model_options", "loss", "class_weights", "sampling")


def with_new_names(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's record with its fields called as they are today."""
    return {RENAMED.get(name, name): value for name, value in record.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hold what a run is made of.

    Args:
      model: Model name, or `package.module:Class`.
      model_options: `FIELD=VALUE` of the model's fields: `("dropout=0",)`.
      dataset: Dataset name, or `folder:DIR`.
      epochs: Epochs at most.
      batch_size: Examples a training step.
      optimizer: One of `cnnjax.training.OPTIMIZERS`.
      learning_rate: Greatest learning rate.
      schedule: One of `cnnjax.training.SCHEDULES`.
      warmup_epochs: Epochs of linear rise before the schedule.
      boundaries: For the step schedule: where the rate falls, each as a share of the steps after the warm-up.
      lr_decay: For the step schedule: what the rate is multiplied by at each boundary.
      momentum: For momentum, nesterov, lars and rmsprop.
      weight_decay: See `make_optimizer`.
      clip_norm: Greatest norm of all gradients together; None for no limit.
      decay_mask: `all`, or `kernels` for no decay of biases and of normalisation's parameters.
      lr_multipliers: By what the learning rate is multiplied where a parameter's path matches: `("^stem=0.1",)`.
      accumulate: Micro-batches a step.
      ema: Decay of the moving averages that are evaluated; None for none.
      precision: What layers compute in: `float32` or `bfloat16`; parameters and statistics stay float32.
      remat: Whether cheap values are computed again in the backward pass instead of being kept.
      on_nan: What a step does that is not finite: `stop` the run, or `skip` and be counted.
      flip_tta: Whether evaluation takes the mean over each image and its mirror image.
      label_smoothing: See `softmax_cross_entropy` and `sigmoid_cross_entropy`.
      loss: One of `cnnjax.training.LOSSES`.
      class_weights: `balanced`, where all classes are to count alike; None where all examples are.
      aux_weight: Weight of each auxiliary head's loss, for nets that have them.
      sampling: `balanced`, for as many examples of each class in an epoch; None for each example once.
      augment: Names of `cnnjax.data.augment`, each with its number: `("translate:2",)`.
      image_size: Pixels a side that images are resized to inside jit; None for as stored, where the model takes it.
      pixel_range: What black and white are stored as in a folder's pixels deeper than 8 bits; None for what the files
        say.
      validation: Examples taken out of the training set for validation; None for the dataset's own number.
      monitor: What early stopping watches.
      patience: Epochs without an improvement after which the run stops; None for no early stopping.
      min_delta: What counts as an improvement.
    """

    model: str
    dataset: str
    model_options: tuple[str, ...] = ()
    epochs: int = 20
    batch_size: int = 128
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    boundaries: tuple[float, ...] = (0.5, 0.75)
    lr_decay: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip_norm: float | None = None
    decay_mask: str = "all"
    lr_multipliers: tuple[str, ...] = ()
    accumulate: int = 1
    ema: float | None = None
    precision: str = "float32"
    remat: bool = False
    on_nan: str = "stop"
    flip_tta: bool = False
    label_smoothing: float = 0.0
    loss: str = "softmax"
    class_weights: str | None = None
    aux_weight: float = 0.3
    sampling: str | None = None
    augment: tuple[str, ...] = ()
    image_size: int | None = None
    pixel_range: tuple[float, float] | None = None
    validation: int | None = None
    monitor: str = "val_loss"
    patience: int | None = None
    min_delta: float = 0.0

    def replace(self, **changes: Any) -> "Recipe":
        """Return the recipe with the given fields changed; a None leaves a field as it is."""
        return dataclasses.replace(self, **{name: value for name, value in changes.items() if value is not None})

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as a run records it."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        values = dataclasses.asdict(self)
        return {name: v for name, v in values.items() if name not in _ADDED or v != defaults[name]}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Recipe":
        """Return the recipe that a run's record holds, among other things."""
        known = {field.name for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {name: value for name, value in with_new_names(record).items() if name in known}
        # JSON knows lists only.
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists})
