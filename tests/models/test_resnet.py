import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import cnnjax
from cnnjax import models
from cnnjax.jaxpr import walk
from cnnjax.layers import BasicBlock, BottleneckBlock, StochasticDepth
from cnnjax.models.resnet import ResNet


def init(model, size=32):
    return jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))


def output_sizes(name, shape):
    """Return the shapes of the sown stages of a net, by tracing."""
    model = models.build(name)

    def stages(key, x):
        return cnnjax.features(
            model, model.init(key, x), x, [f"stage{n}" for n in range(1, len(model.stage_sizes) + 1)]
        )

    found = jax.eval_shape(stages, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    return [value.shape[1:] for value in found.values()]


def test_stages_have_the_sizes_of_the_papers_table_1():
    assert output_sizes("resnet50", (224, 224, 3)) == [(56, 56, 256), (28, 28, 512), (14, 14, 1024), (7, 7, 2048)]
    assert output_sizes("resnet34", (224, 224, 3)) == [(56, 56, 64), (28, 28, 128), (14, 14, 256), (7, 7, 512)]
    # Section 4.2: maps of 32, 16 and 8 pixels.
    assert output_sizes("resnet20", (32, 32, 3)) == [(32, 32, 16), (16, 16, 32), (8, 8, 64)]
    assert output_sizes("resnet18", (97, 130, 3))[-1] == (4, 5, 512)


@pytest.mark.parametrize(
    ("name", "weighted"), [("resnet18", 18), ("resnet50", 50), ("resnet20", 20), ("resnet110", 110)]
)
def test_the_depth_in_the_name_counts_convolutions_and_the_dense_layer(name, weighted):
    paths = jax.tree_util.tree_flatten_with_path(init(models.build(name))["params"])[0]
    kernels = [path for path, _ in paths if path[-1].key == "kernel" and "shortcut" not in jax.tree_util.keystr(path)]
    assert len(kernels) == weighted


@pytest.mark.parametrize("size", [1, 2, 33])
def test_takes_images_of_any_size(size):
    for name in ("resnet18", "resnet50_v1", "resnet20"):
        init(models.build(name), size)


TINY = functools.partial(ResNet, stage_sizes=(1, 1), width=4, num_classes=5)


def test_with_zero_gamma_every_block_starts_as_its_shortcut():
    model = TINY(block=BottleneckBlock, zero_gamma=True)
    x = jax.random.normal(jax.random.key(1), (2, 12, 10, 3))
    variables = jax.jit(model.init)(jax.random.key(0), x)
    for stage in (1, 2):
        block = variables["params"][f"stage{stage}_block0"]
        assert (block["conv3"]["norm"]["scale"] == 0).all()
        assert (block["conv1"]["norm"]["scale"] == 1).all()
    names = ["stage1_block0/shortcut", "stage1_block0"]
    found = jax.jit(lambda v, x: cnnjax.features(model, v, x, names))(variables, x)
    np.testing.assert_allclose(found["stage1_block0"], np.maximum(found["stage1_block0/shortcut"], 0), atol=1e-6)


def test_the_stride_sits_where_the_version_says():
    x = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    for stride_first, size in ((True, 2), (False, 4)):
        model = TINY(block=functools.partial(BottleneckBlock, stride_first=stride_first))
        v = jax.eval_shape(model.init, jax.random.key(0), x)
        found = jax.eval_shape(lambda v, x, m=model: cnnjax.features(m, v, x, ["stage2_block0/conv1"]), v, x)
        assert found["stage2_block0/conv1"].shape[1] == size


def test_stochastic_depth_grows_with_depth_and_rests_in_evaluation():
    model, x = (
        TINY(block=BasicBlock, drop_rate=0.6, stage_sizes=(1, 2)),
        jax.ShapeDtypeStruct((4, 12, 10, 3), "float32"),
    )
    rates = {}

    def record(call, args, kwargs, context):
        if isinstance(context.module, StochasticDepth):
            rates["/".join(context.module.path[:-1])] = context.module.rate
        return call(*args, **kwargs)

    def draws(train):
        rngs, mutable = {"dropout": jax.random.key(1)}, ["batch_stats"]
        with nn.intercept_methods(record):
            closed = jax.make_jaxpr(lambda v, x: model.apply(v, x, train=train, rngs=rngs, mutable=mutable))(
                jax.eval_shape(model.init, jax.random.key(0), x), x
            )
        return sum(step.eqn.primitive.name == "random_bits" for step in walk(closed))

    assert (draws(True), draws(False)) == (3, 0)
    expected = {"stage1_block0": 0.2, "stage2_block0": 0.4, "stage2_block1": 0.6}
    assert rates == pytest.approx(expected)
