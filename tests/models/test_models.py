"""The contract of every model, by shapes alone: nothing is allocated, nothing compiled."""

import jax
import jax.numpy as jnp
import pytest

from cnnjax import models
from cnnjax.errors import UsageError

IMAGES = jax.ShapeDtypeStruct((2, 32, 32, 1), jnp.float32)


@pytest.mark.parametrize("name", models.available())
def test_every_model_gives_float32_logits_from_float32_parameters(name, strict_dtypes):
    # In float32 every net is held to values of others elsewhere; nothing but this computes them all in bfloat16.
    model = models.build(name, num_classes=7, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((2, *models.input_shape(name)), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    for train in (False, True):

        def apply(variables, x, train=train):
            return model.apply(
                variables, x, train=train, rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats", "intermediates"]
            )[0]

        logits = jax.eval_shape(apply, variables, images)
        assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)


def test_build_names_the_nearest_model():
    with pytest.raises(UsageError, match=r"unknown model 'lenet-5': did you mean 'lenet5'\? Known: .*lenet5"):
        models.build("lenet-5")
    with pytest.raises(UsageError, match="expected num_classes >= 1, got 0"):
        models.build("lenet5", num_classes=0)
    assert models.available() == sorted(models.available())


def test_without_the_top_features_come_out():
    variables = jax.eval_shape(models.build("lenet5", include_top=False).init, jax.random.key(0), IMAGES)
    assert set(variables["params"]) == {"c1", "c3"}
    for pooling, shape in ((None, (2, 5, 5, 16)), ("avg", (2, 16)), ("max", (2, 16))):
        model = models.build("lenet5", include_top=False, pooling=pooling)
        assert jax.eval_shape(model.apply, variables, IMAGES).shape == shape
    with pytest.raises(UsageError, match="unknown pooling 'mean'"):
        jax.eval_shape(models.build("lenet5", include_top=False, pooling="mean").init, jax.random.key(0), IMAGES)
