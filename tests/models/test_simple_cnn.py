import jax
import jax.numpy as jnp
import pytest

from cnnjax import models
from cnnjax.errors import UsageError


@pytest.mark.parametrize(("shape", "dense"), [((28, 28, 1), 7 * 7 * 64), ((4, 4, 3), 64), ((33, 20, 3), 8 * 5 * 64)])
def test_the_dense_layer_follows_the_image(shape, dense):
    model = models.build("simple_cnn", num_classes=10)
    params = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), jnp.float32))["params"]
    assert params["head"]["dense1"]["kernel"].shape == (dense, 128)


def test_refuses_images_that_leave_the_second_pool_nothing():
    model = models.build("simple_cnn", num_classes=10)
    with pytest.raises(UsageError, match="at least 4x4 pixels, got 3x9, of which pool2 would"):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 3, 9, 1), jnp.float32))
