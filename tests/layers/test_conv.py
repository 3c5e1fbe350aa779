import functools

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnnjax import ops
from cnnjax.layers import BatchNorm, Conv, ConvNormAct, LocalResponseNorm


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": (3, 2), "strides": 2, "padding": ((1, 0), (2, 1))},
        {"kernel_size": (2, 3), "strides": (1, 2), "padding": 1, "kernel_dilation": (2, 1), "use_bias": False},
        {"kernel_size": (1, 3), "padding": "VALID", "feature_group_count": 2, "bias_init": nn.initializers.normal()},
        {"kernel_size": (3, 3), "dtype": jnp.bfloat16, "kernel_init": nn.initializers.normal(0.1)},
        {"kernel_size": (3, 3), "param_dtype": jnp.bfloat16},
    ],
)
def test_is_linens_convolution_with_the_same_parameters(options):
    images = np.random.default_rng(0).normal(size=(3, 9, 7, 2)).astype(np.float32)
    ours, theirs = Conv(features=4, **options), nn.Conv(features=4, **options)
    variables = theirs.init(jax.random.key(0), images)
    chex.assert_trees_all_equal(ours.init(jax.random.key(0), images), variables)

    def loss(layer):
        return lambda variables, images: (layer.apply(variables, images).astype(jnp.float32) ** 2).sum()

    expected = jax.jit(jax.value_and_grad(loss(theirs), (0, 1)))(variables, images)
    found = jax.jit(jax.value_and_grad(loss(ours), (0, 1)))(variables, images)
    half = jnp.bfloat16 in options.values()
    chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
    chex.assert_trees_all_close(found, expected, rtol=3e-2 if half else 1e-4, atol=1e-1 if half else 1e-4)


@pytest.mark.parametrize(
    ("options", "shape", "text"),
    [
        ({}, (9, 7, 3), "x of rank 4 [N, H, W, C], got shape (9, 7, 3). Add the axis that is missing: x[None] for"),
        ({"kernel_size": (3, 3, 3)}, (1, 9, 7, 3), "kernel_size of one or two positive integers"),
        ({"feature_group_count": 2}, (1, 9, 7, 3), "feature_group_count to divide the 3 channels"),
        ({"feature_group_count": 0}, (1, 9, 7, 3), "feature_group_count to divide"),
        ({"padding": "VALID"}, (1, 2, 7, 3), "2"),
    ],
)
def test_a_bad_convolution_gets_one_sentence(options, shape, text):
    with pytest.raises(ValueError, match=r"^(Conv|conv2d): expected ") as caught:
        Conv(4, **{"kernel_size": 3} | options).init(jax.random.key(0), jnp.ones(shape))
    assert text in str(caught.value)


def test_exports_with_every_size_of_an_image_unknown():
    layer, x = Conv(4, 3, strides=2), jnp.ones((2, 9, 8, 3))
    variables = layer.init(jax.random.key(0), x)
    sizes = jax.export.symbolic_shape("b, h, w", constraints=("h >= 3", "w >= 3"))
    exported = jax.export.export(jax.jit(layer.apply))(variables, jax.ShapeDtypeStruct((*sizes, 3), jnp.float32))
    np.testing.assert_allclose(exported.call(variables, x), layer.apply(variables, x), rtol=1e-5, atol=1e-6)


def test_conv_norm_act_is_its_three_parts_in_this_order():
    x = np.random.default_rng(0).normal(size=(2, 7, 6, 3)).astype(np.float32)
    norm = functools.partial(nn.BatchNorm, momentum=0.9, epsilon=0.5)
    layer = ConvNormAct(4, (3, 2), strides=2, padding=((1, 0), (0, 1)), norm=norm, act=jnp.tanh)
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables["params"]) == {
        "conv": {"kernel": (3, 2, 3, 4)},
        "norm": {"scale": (4,), "bias": (4,)},
    }
    y, updates = jax.jit(functools.partial(layer.apply, train=True, mutable=["batch_stats"]))(variables, x)
    mapped = nn.Conv(4, (3, 2), 2, ((1, 0), (0, 1)), use_bias=False).apply({"params": variables["params"]["conv"]}, x)
    mapped = np.asarray(mapped, np.float64)
    mean, var = mapped.mean((0, 1, 2)), mapped.var((0, 1, 2))
    np.testing.assert_allclose(y, np.tanh((mapped - mean) / np.sqrt(var + 0.5)), atol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["norm"]["mean"], 0.1 * mean, atol=1e-6)
    still = jax.jit(layer.apply)(variables, x)
    np.testing.assert_allclose(still, np.tanh(mapped / np.sqrt(1.5)), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, {"conv": {"kernel", "bias"}}),
        ({"norm": nn.BatchNorm}, {"conv": {"kernel"}, "norm": {"scale", "bias"}}),
        ({"norm": nn.BatchNorm, "use_bias": True}, {"conv": {"kernel", "bias"}, "norm": {"scale", "bias"}}),
        ({"use_bias": False, "act": None}, {"conv": {"kernel"}}),
    ],
)
def test_a_bias_is_there_exactly_when_nothing_normalises_after_it_or_when_asked_for(options, parameters):
    x = jax.ShapeDtypeStruct((2, 6, 6, 3), jnp.float32)
    params = jax.eval_shape(ConvNormAct(4, **options).init, jax.random.key(0), x)["params"]
    assert {name: set(leaves) for name, leaves in params.items()} == parameters


def test_bfloat16_computes_with_float32_parameters_in_anyones_model():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = ConvNormAct(8, 3, norm=nn.BatchNorm, dtype=jnp.bfloat16, name="first")(x)
            return nn.Dense(5)(x.reshape(x.shape[0], -1))

    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
    variables = jax.eval_shape(Net().init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    layer = ConvNormAct(8, 3, norm=nn.BatchNorm, dtype=jnp.bfloat16)
    assert jax.eval_shape(lambda x: layer.init_with_output(jax.random.key(0), x)[0], x).dtype == jnp.bfloat16
    text = str(jax.make_jaxpr(Net().apply)(variables, x))
    assert "preferred_element_type=bfloat16" in text or "bf16[3,3,3,8]" in text


@pytest.mark.parametrize(
    ("norm", "moves"),
    [
        (BatchNorm, True),
        (functools.partial(BatchNorm, use_running_average=True), False),
        (functools.partial(nn.GroupNorm, num_groups=2), False),
        (nn.LayerNorm, False),
        (LocalResponseNorm, False),
        (lambda *, use_running_average, **options: BatchNorm(use_running_average=use_running_average, **options), True),
    ],
)
def test_any_normalisation_is_told_what_it_takes_and_no_more(norm, moves):
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
    layer = ConvNormAct(4, 3, norm=norm, act=None)
    variables = layer.init(jax.random.key(0), x)
    y, updates = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    statistics = variables.get("batch_stats", {})
    moved = jax.tree.map(lambda a, b: (a != b).any(), updates.get("batch_stats", {}), statistics)
    assert any(jax.tree.leaves(moved)) == moves
    mapped = ops.conv2d(x, variables["params"]["conv"]["kernel"])
    own = norm(use_running_average=False, dtype=jnp.float32) if moves else norm()
    inner = {name: values["norm"] for name, values in variables.items() if "norm" in values}
    np.testing.assert_allclose(y, own.apply(inner, mapped, mutable=["batch_stats"])[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"act": "relu"}, "expected a function or None as act, got 'relu'. Give nn.relu."),
        ({"norm": "batch"}, "expected as norm what makes a module, got 'batch'. Give a class or a partial."),
        (
            {"norm": BatchNorm(use_running_average=True)},
            "what makes a module, got BatchNorm(...). Give a class",
        ),
    ],
)
def test_neither_a_name_nor_a_layer_is_a_function(options, text):
    with pytest.raises(TypeError, match=r"^ConvNormAct: expected ") as caught:
        ConvNormAct(4, 3, **options).init(jax.random.key(0), jnp.ones((1, 4, 4, 1)))
    assert text in str(caught.value)


@pytest.mark.parametrize("features", [0, -1, 8.0, None])
def test_bad_features_get_one_sentence(features):
    with pytest.raises(ValueError, match=r"^Conv: expected features of at least 1, got .*\. Give an integer\."):
        Conv(features, 3).init(jax.random.key(0), jnp.ones((1, 4, 4, 1)))


@pytest.mark.parametrize(
    ("order", "bias", "channels"), [("conv act norm", True, 8), ("norm act conv", True, 4), ("conv norm act", False, 8)]
)
def test_order_groups_and_dilation_are_torchs(order, bias, channels):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, 9, 7, 4)).astype(np.float32)
    layer = ConvNormAct(8, 3, norm=BatchNorm, padding=2, kernel_dilation=2, feature_group_count=2, order=order)
    variables = layer.init(jax.random.key(1), x)
    assert ("bias" in variables["params"]["conv"]) == bias
    assert variables["params"]["norm"]["scale"].shape == (channels,)
    conv = torch.nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2, bias=bias)
    kernel = np.array(variables["params"]["conv"]["kernel"])
    with torch.no_grad():
        conv.weight.copy_(torch.tensor(kernel.transpose(3, 2, 0, 1)))
        if bias:
            conv.bias.zero_()
        parts = {"conv": conv, "norm": torch.nn.BatchNorm2d(channels), "act": torch.nn.ReLU()}
        y = torch.tensor(x.transpose(0, 3, 1, 2))
        for step in order.split():
            y = parts[step](y)
    ours, _ = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(ours, y.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"expected order as one of .*, got 'act conv'"):
        ConvNormAct(8, order="act conv").init(jax.random.key(0), x)
