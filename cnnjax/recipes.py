"""Named training recipes: every number that decides a run, in one frozen record each."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cnnjax.errors import unknown


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hold what a run is made of.

    Args:
      model: Model name, or `package.module:Class`.
      dataset: Dataset name, or `folder:DIR`.
      epochs: Epochs at most.
      batch_size: Examples a training step.
      optimizer: One of `cnnjax.training.OPTIMIZERS`.
      learning_rate: Greatest learning rate.
      schedule: One of `cnnjax.training.SCHEDULES`.
      warmup_epochs: Epochs of linear rise before the schedule.
      momentum: For momentum, nesterov and lars.
      weight_decay: See `make_optimizer`.
      label_smoothing: See `softmax_cross_entropy`.
      augment: Names of `cnnjax.data.augment`, each with its number: `("translate:2",)`.
      image_size: Pixels a side that images are resized to inside jit; None for as stored, where the model takes it.
      validation: Examples taken out of the training set for validation; None for the dataset's own number.
      monitor: What early stopping watches.
      patience: Epochs without an improvement after which the run stops; None for no early stopping.
      min_delta: What counts as an improvement.
    """

    model: str
    dataset: str
    epochs: int = 20
    batch_size: int = 128
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    augment: tuple[str, ...] = ()
    image_size: int | None = None
    validation: int | None = None
    monitor: str = "val_loss"
    patience: int | None = None
    min_delta: float = 0.0

    def replace(self, **changes: Any) -> "Recipe":
        """Return the recipe with the given fields changed; a None leaves a field as it is."""
        return dataclasses.replace(self, **{name: value for name, value in changes.items() if value is not None})

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Recipe":
        """Return the recipe that a run's record holds, among other things."""
        known = {field.name for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {name: value for name, value in record.items() if name in known}
        return cls(**{**values, "augment": tuple(values["augment"])})


_RECIPES = {
    # 1,300 training images: small batches, shifts of up to 4 of the 32 pixels that a digit is enlarged to.
    "lenet5-digits": Recipe(
        model="lenet5",
        dataset="digits",
        epochs=30,
        batch_size=32,
        optimizer="adam",
        learning_rate=2e-3,
        schedule="one-cycle",
        augment=("translate:4",),
        image_size=32,
    ),
    # The classic course exercise: plain SGD, no schedule, stop when the validation loss rises.
    "lenet5-mnist": Recipe(
        model="lenet5",
        dataset="mnist",
        epochs=50,
        batch_size=32,
        optimizer="sgd",
        learning_rate=0.01,
        schedule="constant",
        monitor="val_loss",
        patience=3,
    ),
    # The same net in a fifth of the steps: one-cycle Adam and shifts of up to 2 pixels.
    "lenet5-mnist-fast": Recipe(
        model="lenet5",
        dataset="mnist",
        epochs=10,
        batch_size=128,
        optimizer="adam",
        learning_rate=4e-3,
        schedule="one-cycle",
        augment=("translate:2",),
    ),
}


def available() -> list[str]:
    """Return the recipes' names, sorted.

    Example:
      >>> available()
      ['lenet5-digits', 'lenet5-mnist', 'lenet5-mnist-fast']
    """
    return sorted(_RECIPES)


def get(name: str) -> Recipe:
    """Return the recipe of that name.

    Args:
      name: One of `available()`.
    Raises:
      UsageError: If there is none; the nearest names are in the message.
    Example:
      >>> get("lenet5-mnist").batch_size
      32
    """
    if name not in _RECIPES:
        raise unknown("recipe", name, _RECIPES)
    return _RECIPES[name]


def default_for(model: str, dataset: str) -> tuple[str | None, Recipe]:
    """Return the recipe made for this model and dataset with its name, or plain defaults and None.

    Args:
      model: Model name.
      dataset: Dataset name.
    """
    for name, recipe in _RECIPES.items():
        if (recipe.model, recipe.dataset) == (model, dataset):
            return name, recipe
    return None, Recipe(model=model, dataset=dataset)
