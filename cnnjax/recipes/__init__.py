"""Named training recipes: every number that decides a run, in one frozen record each."""

from cnnjax.errors import unknown
from cnnjax.recipes.published import RECIPES
from cnnjax.recipes.recipe import Recipe, with_new_names

__all__ = ["Recipe", "available", "default_for", "get", "with_new_names"]


def __dir__() -> list[str]:
    return __all__


def available() -> list[str]:
    """Return the recipes' names, sorted.

    Example:
      >>> available()[:2]
      ['alexnet-imagenet', 'convnext_base-imagenet']
    """
    return sorted(RECIPES)


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
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]


def default_for(model: str, dataset: str) -> tuple[str | None, Recipe]:
    """Return the recipe made for this model and dataset with its name, or plain defaults and None.

    Args:
      model: Model name.
      dataset: Dataset name.
    """
    for name, recipe in RECIPES.items():
        if (recipe.model, recipe.dataset) == (model, dataset):
            return name, recipe
    return None, Recipe(model=model, dataset=dataset)
