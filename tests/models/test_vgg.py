import jax
import jax.numpy as jnp
import pytest

import cnnjax
from cnnjax import models
from cnnjax.errors import UsageError
from cnnjax.jaxpr import walk


def init(name, size, **options):
    model = models.build(name, **options)
    return model, jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))


@pytest.mark.parametrize(("name", "depth"), [("vgg11", 11), ("vgg13_bn", 13), ("vgg16", 16), ("vgg19_bn", 19)])
def test_the_depth_in_the_name_counts_layers_with_weights(name, depth):
    _, variables = init(name, (32, 32))
    paths = jax.tree_util.tree_flatten_with_path(variables["params"])[0]
    assert sum(path[-1].key == "kernel" for path, _ in paths) == depth
    assert ("batch_stats" in variables) == name.endswith("_bn")


@pytest.mark.parametrize("size", [(224, 224), (100, 67)])
def test_the_dense_layers_fit_any_image(size):
    _, variables = init("vgg11", size)
    assert variables["params"]["head"]["dense1"]["kernel"].shape == (7 * 7 * 512, 4096)


def test_stages_halve_the_map():
    model, variables = init("vgg16", (224, 224))
    names = [f"stage{n}" for n in range(1, 6)]
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    found = jax.eval_shape(lambda v, x: cnnjax.features(model, v, x, names), variables, x)
    # Simonyan and Zisserman, Table 1.
    expected = [(112, 112, 64), (56, 56, 128), (28, 28, 256), (14, 14, 512), (7, 7, 512)]
    assert [value.shape[1:] for value in found.values()] == expected


def test_refuses_images_that_leave_the_last_pool_nothing():
    init("vgg19", (32, 32))
    with pytest.raises(UsageError, match="at least 32x32 pixels, got 40x31, of which stage5_pool would"):
        init("vgg19", (40, 31))
    with pytest.raises(UsageError, match="stage5_pool"):
        init("vgg16_cifar", (16, 16), num_classes=10)


def test_dropout_acts_in_training_alone():
    model = models.build("vgg11", num_classes=3)
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)

    def draws(train):
        closed = jax.make_jaxpr(lambda v, x, key: model.apply(v, x, train=train, rngs={"dropout": key}))(
            variables, x, jax.random.key(0)
        )
        return sum(step.eqn.primitive.name == "random_bits" for step in walk(closed))

    assert (draws(False), draws(True)) == (0, 2)
