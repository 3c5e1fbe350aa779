import dataclasses
import json

import pytest

from cnnjax import data, models, recipes
from cnnjax.data import augment
from cnnjax.errors import UsageError
from cnnjax.training import OPTIMIZERS, SCHEDULES


@pytest.mark.parametrize("name", recipes.available())
def test_every_recipe_names_what_exists(name):
    recipe = recipes.get(name)
    assert name.startswith(f"{recipe.model}-{recipe.dataset}")
    assert recipe.model in models.available()
    assert recipe.dataset in data.available()
    assert recipe.optimizer in OPTIMIZERS
    assert recipe.schedule in SCHEDULES
    augment.parse(recipe.augment)


def test_a_recipe_survives_its_record():
    recipe = recipes.get("lenet5-mnist-fast")
    record = {"recipe": "lenet5-mnist-fast", **json.loads(json.dumps(dataclasses.asdict(recipe))), "seed": 3}
    assert recipes.Recipe.from_json(record) == recipe


def test_the_classic_recipe_is_the_classic_one():
    recipe = recipes.get("lenet5-mnist")
    assert (recipe.optimizer, recipe.learning_rate, recipe.batch_size) == ("sgd", 0.01, 32)
    assert (recipe.monitor, recipe.patience, recipe.schedule) == ("val_loss", 3, "constant")


def test_changes_leave_the_rest_and_none_changes_nothing():
    changed = recipes.get("lenet5-mnist").replace(epochs=2, batch_size=None)
    assert (changed.epochs, changed.batch_size) == (2, 32)
    assert recipes.default_for("lenet5", "digits")[0] == "lenet5-digits"
    assert recipes.default_for("lenet5", "folder:x") == (None, recipes.Recipe(model="lenet5", dataset="folder:x"))
    with pytest.raises(UsageError, match="did you mean 'lenet5-mnist"):
        recipes.get("lenet5-mnits")
