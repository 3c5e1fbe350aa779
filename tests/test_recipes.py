import dataclasses
import json

import pytest

from cnnjax import data, models, recipes
from cnnjax.data import augment
from cnnjax.errors import UsageError
from cnnjax.training import OPTIMIZERS, SCHEDULES, make_schedule


@pytest.mark.parametrize("name", recipes.available())
def test_every_recipe_names_what_exists(name):
    recipe = recipes.get(name)
    model, dataset = name.split("-")[:2]
    assert model in (recipe.model, recipe.model.removesuffix("_cifar"), recipe.model.removesuffix("_torchvision"))
    assert recipe.dataset.startswith(dataset)
    assert recipe.model in models.available()
    assert recipe.dataset in data.available()
    assert recipe.optimizer in OPTIMIZERS
    assert recipe.schedule in SCHEDULES
    assert recipe.image_size in (None, 32, models.input_shape(recipe.model)[0])
    augment.parse(recipe.augment)


def rate(recipe, examples, epoch):
    """Return a recipe's learning rate at an epoch of that many examples."""
    steps = examples // recipe.batch_size
    schedule = make_schedule(
        recipe.schedule,
        recipe.learning_rate,
        recipe.epochs * steps,
        warmup_steps=round(recipe.warmup_epochs * steps),
        boundaries=recipe.boundaries,
        factor=recipe.lr_decay,
    )
    return float(schedule(round(epoch * steps)))


def test_the_residual_papers_recipe_is_64000_steps_with_falls_at_32000_and_48000():
    recipe = recipes.get("resnet20-cifar10")
    steps = recipe.epochs * 45_000 // recipe.batch_size
    assert abs(steps - 64_000) < 45_000 / recipe.batch_size
    epochs = [n * recipe.batch_size / 45_000 for n in (31_000, 33_000, 47_000, 49_000)]
    assert [rate(recipe, 45_000, epoch) for epoch in epochs] == pytest.approx([0.1, 0.01, 0.01, 0.001])
    assert (recipe.weight_decay, recipe.momentum, recipe.optimizer) == (1e-4, 0.9, "momentum")


def test_imagenet_recipes_fall_when_their_sources_say():
    resnet, googlenet, inception = (
        recipes.get(f"{name}-imagenet") for name in ("resnet50", "googlenet", "inception_v3")
    )
    assert [rate(resnet, 1_281_167, epoch) for epoch in (29, 31, 59, 61)] == pytest.approx([0.1, 0.01, 0.01, 0.001])
    found = [rate(googlenet, 1_281_167, epoch) for epoch in (7, 9, 247, 249)]
    assert found == pytest.approx([0.01, 0.0096, 0.01 * 0.96**30, 0.01 * 0.96**31], rel=1e-4)
    found = [rate(inception, 1_281_167, epoch) for epoch in (1, 3, 99)]
    assert found == pytest.approx([0.045, 0.045 * 0.94, 0.045 * 0.94**49], rel=1e-4)


def test_the_recipes_since_2016_fall_when_their_sources_say():
    wide, mobile, resnext = (
        recipes.get(name) for name in ("wide_resnet28_10-cifar10", "mobilenet_v2-imagenet", "resnext29_8x64d-cifar10")
    )
    found = [rate(wide, 45_000, epoch) for epoch in (59, 61, 119, 121, 159, 161)]
    assert found == pytest.approx([0.1, 0.02, 0.02, 0.004, 0.004, 0.0008])
    assert [rate(resnext, 45_000, epoch) for epoch in (149, 151, 224, 226)] == pytest.approx([0.1, 0.01, 0.01, 0.001])
    found = [rate(mobile, 1_281_167, epoch) for epoch in (0.5, 1.5, 299.5)]
    assert found == pytest.approx([0.045, 0.045 * 0.98, 0.045 * 0.98**299], rel=1e-4)


def test_a_recipe_survives_its_record():
    recipe = recipes.get("lenet5-mnist-fast")
    record = {"recipe": "lenet5-mnist-fast", **json.loads(json.dumps(dataclasses.asdict(recipe))), "seed": 3}
    assert recipes.Recipe.from_json(record) == recipe
    # As an earlier version called its fields.
    changed = recipe.replace(lr_decay=0.3, decay_mask="kernels", lr_multipliers=("a=2",), flip_tta=True)
    old = {"lr_decay": "factor", "decay_mask": "decay", "lr_multipliers": "rates", "flip_tta": "test_flip"}
    record = json.loads(json.dumps({old.get(name, name): value for name, value in changed.to_json().items()}))
    assert set(old.values()) <= record.keys()
    assert recipes.Recipe.from_json(record) == changed


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
