import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import cnnjax
from cnnjax import models
from cnnjax.errors import UsageError
from tests.models.variants import every_model


class Twice(nn.Module):
    """Calls one layer twice, knows no modes, sows in an inner module."""

    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(3, name="dense")
        y = dense(dense(x))
        self.sow("intermediates", "middle", y)
        return Inner(name="inner")(y)


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.sow("intermediates", "doubled", 2 * x)
        return x + 1


def test_sown_values_and_modules_outputs_by_name():
    x = jnp.arange(6.0).reshape(2, 3)
    variables = Twice().init(jax.random.key(0), x)
    found = cnnjax.features(Twice(), variables, x, ["inner/doubled", "dense", "middle", "inner"])
    kernel, bias = (np.asarray(variables["params"]["dense"][name]) for name in ("kernel", "bias"))
    twice = (np.asarray(x) @ kernel + bias) @ kernel + bias
    assert list(found) == ["inner/doubled", "dense", "middle", "inner"]
    for name, expected in {"dense": twice, "middle": twice, "inner": twice + 1, "inner/doubled": 2 * twice}.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)


def test_an_unknown_feature_names_the_nearest():
    model = models.build("resnet20", num_classes=10)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    with pytest.raises(UsageError, match=r"unknown feature 'stage4': did you mean 'stage[123]'"):
        jax.eval_shape(lambda v, x: cnnjax.features(model, v, x, ["stage4"]), variables, images)


@pytest.mark.parametrize("name", every_model())
def test_every_model_has_stages_that_shrink(name):
    model = models.build(name)
    images = jax.ShapeDtypeStruct((1, *models.input_shape(name)), jnp.float32)

    def stages(key, x):
        variables = model.init(key, x)
        known = model.apply(variables, x, train=False, mutable=["intermediates"])[1]["intermediates"]
        return cnnjax.features(model, variables, x, sorted(n for n in known if n.startswith("stage")))

    shapes = [value.shape for value in jax.eval_shape(stages, jax.random.key(0), images).values()]
    assert len(shapes) >= 2
    assert all(len(shape) == 4 for shape in shapes)
    assert [s[1] for s in shapes] == sorted((s[1] for s in shapes), reverse=True)
