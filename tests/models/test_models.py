"""The contract of every model, by shapes alone: nothing is allocated, nothing compiled."""

import jax
import jax.numpy as jnp
import pytest

from cnnjax import models, ops
from cnnjax.errors import UsageError
from cnnjax.layers import BatchNorm, Conv, DenseHead, InceptionBlock, NaiveInceptionBlock
from tests.models.variants import every_model

X = jnp.ones((2, 4, 4, 3))

IMAGES = jax.ShapeDtypeStruct((2, 32, 32, 1), jnp.float32)


@pytest.mark.parametrize("name", every_model())
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


def applied(layer, x):
    return layer.init(jax.random.key(0), x)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: applied(models.build("lenet5"), jnp.ones((2, 1, 28, 28))), UsageError, "transpose"),
        (lambda: applied(models.build("lenet5"), [[[[0.0]]]]), TypeError, "got list. Write np.asarray"),
        (lambda: ops.conv2d(jnp.ones((2, 3, 9, 8)), jnp.ones((3, 3, 3, 4))), ValueError, "channels first. Move them"),
        (lambda: applied(InceptionBlock((1, 2, 3)), X), ValueError, "expected 6 widths, got (1, 2, 3)"),
        (lambda: applied(NaiveInceptionBlock((1, 2)), X), ValueError, "expected 3 widths, got (1, 2)"),
        (lambda: applied(DenseHead(5, hidden=32), X), TypeError, "hidden as a tuple, one a layer, got 32. Give (32,)"),
        (lambda: applied(DenseHead(5, dropout=0.5), X), TypeError, "dropout as a tuple, one a layer, got 0.5"),
        (lambda: applied(DenseHead(0), X), ValueError, "widths of at least 1, got (0,)"),
        (lambda: applied(Conv(4, 3, dtype="float31"), X), TypeError, "dtype as float32, bfloat16 or float16"),
        (lambda: applied(BatchNorm(True, dtype="int8"), X), TypeError, "got 'int8'. Give jnp.float32"),
        (lambda: models.build("lenet5", dtype="float31"), TypeError, "got 'float31'"),
        (lambda: models.build("lenet5", num_classes="ten"), UsageError, "num_classes >= 1, got 'ten'"),
    ],
)
def test_what_others_would_say_in_pythons_words_gets_one_sentence(call, error, text):
    with pytest.raises(error, match=r"^\w+: expected ") as caught:
        call()
    assert text in str(caught.value)  # without a line break: JAX adds notes of its own


def test_torchs_tensors_are_told_how_to_convert():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"got torch's Tensor. Give x.detach\(\).cpu\(\).permute\(0, 2, 3, 1\).numpy"):
        ops.max_pool(torch.zeros(2, 1, 28, 28, requires_grad=True), 2)
    with pytest.raises(TypeError, match=r"Give kernel.detach\(\).cpu\(\).numpy\(\)"):
        ops.conv2d(jnp.ones((1, 4, 4, 1)), torch.zeros(3, 3, 1, 1))


def test_the_default_number_of_classes_is_the_published_one():
    for name in models.available():
        assert models.build(name).num_classes == models.num_classes(name)
    assert {name: models.build(name).num_classes for name in ("lenet5", "resnet20", "vgg16_cifar", "vgg16")} == {
        "lenet5": 10,
        "resnet20": 10,
        "vgg16_cifar": 10,
        "vgg16": 1000,
    }
