"""Receptive fields against published ones, worked-out ones, and the same net in other frameworks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax

from cnnjax import models, ops
from cnnjax.errors import UsageError
from cnnjax.layers import InvertedResidual, SqueezeExcitation
from cnnjax.receptive_field import receptive_field, trace, trace_jaxpr

NHWC = ("NHWC", "HWIO", "NHWC")
KERNEL = np.random.default_rng(0).uniform(0.5, 1.5, (3, 3, 2, 2)).astype(np.float32)
SHAPE = (1, 12, 15, 2)


def conv(x, **options):
    return ops.conv2d(x, KERNEL, **options)


def of(function, shape=SHAPE, **options):
    return receptive_field(function, shape, **options)


# Size and padding of the last feature map; facts computed over the real graphs and probed on the real models.
PUBLISHED = {
    "vgg16": (212, 90),
    "vgg19": (268, 118),
    "resnet18": (435, 217),
    "resnet34": (899, 449),
    "resnet50": (427, 213),
    "resnet101": (971, 485),
    "resnet152": (1451, 725),
    "resnet50_v1": (483, 241),
    "resnet101_v1": (1027, 513),
    "resnet152_v1": (1507, 753),
    "googlenet": (715, 327),
    "googlenet_torchvision": (379, 167),
    "resnext50_32x4d": (427, 213),
    "wide_resnet50_2": (427, 213),
    "mobilenet_v2": (491, 245),
    "densenet121": (2071, 1021),
    "convnext_tiny": (1688, 828),
    "inception_v3": (1311, 618),
    "inception_v3_torchvision": (1311, 618),
}
QUICK = ["vgg16", "resnet18", "googlenet_torchvision"]


def check_published(name):
    size, padding = PUBLISHED[name]
    field = receptive_field(models.build(name), models.input_shape(name))
    assert (field.size, field.stride, field.padding) == ((size, size), (32, 32), (padding, padding))
    assert field.uniform == (True, True)
    assert field.exact
    assert field.centre == ((size - 1) / 2 - padding,) * 2
    # An interval that no border cuts is as long as the size says; clipping only cuts.
    for index in ((0, 0), (3, 5)):
        for clipped, whole, pixels in zip(field.interval(index), field.interval(index, clip=False), field.input_size):
            assert whole is not None
            assert whole[1] - whole[0] + 1 == size
            assert clipped == (max(whole[0], 0), min(whole[1], pixels - 1))


@pytest.mark.parametrize("name", QUICK)
def test_published_fields(name):
    check_published(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(PUBLISHED) - set(QUICK)))
def test_the_other_published_fields(name):
    check_published(name)


# Worked out layer by layer.
GATED = {"seresnet50": (427, 213), "mobilenet_v3_large": (595, 297), "efficientnet_b0": (851, 425)}


@pytest.mark.slow
@pytest.mark.parametrize("name", GATED)
def test_gates_make_a_field_global_and_without_them_it_is_that_of_the_windows(name):
    size, padding = GATED[name]
    # Large enough that no window reads the whole image: at 224 pixels one of 851 does from every place.
    shape = (1, 1024, 896, 3)
    assert receptive_field(models.build(name), shape).is_global == (True, True)
    field = receptive_field(models.build(name, gate=None), shape)
    assert (field.size, field.stride, field.padding) == ((size, size), (32, 32), (padding, padding))
    assert field.is_global == (False, False)


def test_a_gate_reads_the_whole_image_and_its_input_a_window():
    shape = (1, 20, 24, 3)
    fields = []
    for gate in (functools.partial(SqueezeExcitation, 2), None):
        block = InvertedResidual(3, 6, gate=gate)
        fields.append(receptive_field(block, shape))
    assert [field.is_global for field in fields] == [(True, True), (False, False)]
    assert fields[0].interval((10, 10)) == ((0, 19), (0, 23))
    assert fields[1].interval((10, 10)) == ((9, 11), (9, 11))


def test_layers_of_vgg16_by_name():
    model = models.build("vgg16")
    sizes = {
        layer.path.split("/")[1]: layer.field.size[0] for layer in trace(model, (224, 224, 3)) if "stage" in layer.path
    }
    by_stage = [
        [3, 5, 6],
        [10, 14, 16],
        [24, 32, 40, 44],
        [60, 76, 92, 100],
        [132, 164, 196, 212],
    ]  # Araujo et al., 2019, and by hand
    assert list(sizes.values()) == [size for stage in by_stage for size in stage]
    assert of(model, (224, 224, 3), output="stage5_conv3").size == (196, 196)


@pytest.mark.parametrize(
    ("function", "size", "stride", "padding"),
    [
        (conv, (3, 3), (1, 1), (1, 1)),
        (lambda x: conv(x, strides=(2, 1)), (3, 3), (2, 1), (0, 1)),  # SAME on 12 with stride 2 pads below alone
        (lambda x: conv(x, kernel_dilation=(3, 1)), (7, 3), (1, 1), (3, 1)),
        (lambda x: conv(conv(x, strides=2, padding=1), padding="VALID"), (7, 7), (2, 2), (1, 1)),
        (lambda x: ops.max_pool(conv(x), 2), (4, 4), (2, 2), (1, 1)),
        (lambda x: ops.avg_pool(x, 3, strides=2, padding=1), (3, 3), (2, 2), (1, 1)),
        (lambda x: conv(x)[:, ::-1], (3, 3), (-1, 1), (-10, 1)),
        (lambda x: conv(x).transpose(0, 2, 1, 3)[:, ::3], (3, 3), (1, 3), (1, 1)),
        (lambda x: jnp.repeat(conv(x), 2, axis=1), (3, 3), (0.5, 1), (1, 1)),
        (lambda x: ops.conv_transpose2d(x, KERNEL[:2, :2], strides=2), (1, 1), (0.5, 0.5), (0, 0)),
        (lambda x: jax.image.resize(x, (1, 24, 30, 2), "bilinear"), (2, 2), (0.5, 0.5), (1, 1)),
        (lambda x: jax.image.resize(x, (1, 24, 30, 2), "nearest"), (1, 1), (0.5, 0.5), (0, 0)),
        (
            lambda x: conv(jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], "reflect"), padding="VALID"),
            (3, 3),
            (1, 1),
            (1, 1),
        ),
        (lambda x: lax.scan(lambda c, _: (conv(c), None), x, None, length=4)[0], (9, 9), (1, 1), (4, 4)),
        (lambda x: lax.fori_loop(0, 3, lambda _, c: conv(c), x), (7, 7), (1, 1), (3, 3)),
        (lambda x: jax.checkpoint(jax.jit(conv))(x), (3, 3), (1, 1), (1, 1)),
        (lambda x: jax.vmap(lambda image: conv(image[None])[0])(x), (3, 3), (1, 1), (1, 1)),
        (lambda x: conv(x) + conv(conv(x)), (5, 5), (1, 1), (2, 2)),
        (lambda x: lax.cond(jnp.sum(KERNEL) > 0, conv, lambda x: conv(conv(x)), x), (3, 3), (1, 1), (1, 1)),
    ],
)
def test_size_stride_and_padding(function, size, stride, padding):
    field = of(function, output=0)
    assert (field.size, field.stride, field.padding) == (size, stride, padding)
    assert field.exact


@pytest.mark.parametrize("method", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("size", [(24, 30), (7, 40), (12, 5)])
def test_resizing_reads_what_its_gradient_reaches(method, size):
    """The probe can't see it, since a NaN times a weight of zero is one; the gradient of a linear map can."""

    def resize(x):
        return jax.image.resize(x, (1, *size, 2), method)

    field = of(resize, output=0)
    jacobian = np.abs(np.asarray(jax.jacobian(lambda x: resize(x).sum(-1)[0])(jnp.ones(SHAPE)))).sum((2, -1))
    for i in range(size[0]):
        for j in range(size[1]):
            rows, columns = (np.flatnonzero(jacobian[i, j].sum(axis)) for axis in (1, 0))
            assert field.interval((i, j)) == ((rows[0], rows[-1]), (columns[0], columns[-1]))


def test_what_dynamic_slices_and_scatters_at_fixed_places_read():
    assert of(lambda x: lax.dynamic_slice(x, (0, 2, 40, 0), (1, 10, 12, 2)), output=0).interval((0, 0)) == (
        (2, 2),
        (3, 3),
    )
    erased = of(lambda x: x.at[:, 2:4].set(0.0), output=0)
    assert erased.interval((2, 0)) == (None, None)
    assert erased.interval((4, 0)) == ((4, 4), (0, 0))
    added = of(lambda x: x.at[:, 2:4].add(x[:, :2]), output=0)
    assert added.interval((3, 5)) == ((1, 3), (5, 5))
    picked = of(lambda x: conv(x)[:, jnp.array([0, 7, 3])], output=0)
    assert [picked.interval((i, 0))[0] for i in range(3)] == [(0, 1), (6, 8), (2, 4)]
    updated = of(lambda x: lax.dynamic_update_slice(x, x[:, :2], (0, 5, 0, 0)), output=0)
    assert [updated.interval((i, 0))[0] for i in (4, 5, 6, 7)] == [(4, 4), (0, 0), (1, 1), (7, 7)]


def test_recurrence_over_rows_reads_all_rows_before():
    def recurrent(x):
        rows = lax.scan(lambda c, row: (c + row, c + row), jnp.zeros((1, 15, 2)), jnp.moveaxis(x, 1, 0))[1]
        return jnp.moveaxis(rows, 0, 1)

    field = of(recurrent, output=0)
    assert [field.interval((i, 3)) for i in (0, 5, 11)] == [((0, i), (3, 3)) for i in (0, 5, 11)]
    assert not field.uniform[0]
    assert of(lambda x: jnp.cumsum(x, axis=1), output=0).interval((5, 3)) == ((0, 5), (3, 3))


@pytest.mark.parametrize(
    ("function", "primitive", "exact"),
    [
        (lambda x: x[:, (x[0, :, 0, 0] > 0).astype(int)], "gather", False),
        (lambda x: lax.dynamic_slice(x, (0, jnp.argmax(x[0, :, 0, 0]), 0, 0), (1, 4, 15, 2)), "dynamic_slice", False),
        (lambda x: jnp.fft.fft2(x, axes=(1, 2)).real, "fft", True),
        (lambda x: jax.pure_callback(lambda a: a, x, x), "pure_callback", False),
        (lambda x: lax.while_loop(lambda c: c.sum() > 0, conv, x), "while", False),
        (lambda x: lax.cond(x.sum() > 0, conv, lambda x: x, x), "cond", True),
    ],
)
def test_what_cannot_be_known_is_global_and_says_so(function, primitive, exact):
    field = of(function)
    assert field.name == "output"
    assert field.is_global[0]
    assert field.interval((0, 0))[0] == (0, 11)
    assert any(note.startswith(f"{primitive} at ") and __file__ in note for note in field.notes)
    assert field.exact is exact
    assert primitive in str(field)


def test_a_data_dependent_place_does_not_make_the_other_axis_global():
    field = of(lambda x: x[:, (x[0, :, 0, 0] > 0).astype(int)])
    assert field.is_global == (True, False)


def test_squeeze_and_excitation_reads_everything():
    field = of(lambda x: conv(x) * nn.sigmoid(x.mean((1, 2), keepdims=True)))
    assert field.is_global == (True, True)
    assert field.stride == (None, None)
    assert field.interval((3, 4)) == ((0, 11), (0, 14))


class Classifier(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3), strides=2, name="first")(x)))
        x = nn.remat(nn.Conv)(4, (3, 3), name="second")(x)
        x = nn.Dropout(0.5, deterministic=not train)(x.reshape(x.shape[0], -1))
        return nn.Dense(10, name="head", kernel_init=nn.initializers.zeros)(x)


def test_a_classifiers_field_is_its_last_feature_map():
    field = of(Classifier(), (12, 15, 2))
    assert (field.output_shape, field.size, field.stride) == ((1, 6, 8, 4), (7, 7), (2, 2))
    assert of(Classifier(), (12, 15, 2), output="first").size == (3, 3)
    logits = of(Classifier(), (12, 15, 2), output=0)
    assert logits.interval((0, 0)) == logits.interval(()) == ((0, 11), (0, 14))
    assert [layer.path for layer in trace(Classifier(), (12, 15, 2))] == [
        "Classifier/first",
        "Classifier/second",
        "Classifier/head",
    ]


@pytest.mark.parametrize(
    "pool", [lambda x: x.mean((1, 2)), lambda x: ops.global_avg_pool(x), lambda x: ops.avg_pool(x, (12, 15))]
)
def test_a_global_pool_is_no_feature_map(pool):
    field = of(lambda x: jnp.reshape(pool(conv(x)), (1, -1)) @ jnp.ones((2, 3)))
    assert (field.output_shape, field.size) == ((1, 12, 15, 2), (3, 3))


def test_trace_jaxpr_takes_parameters_before_the_image():
    model, image = Classifier(), jax.ShapeDtypeStruct((1, 12, 15, 2), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    rows = trace_jaxpr(jax.make_jaxpr(model.apply)(variables, image))
    assert [(row.path, row.field.size) for row in rows][:2] == [
        ("Classifier/first", (3, 3)),
        ("Classifier/second", (7, 7)),
    ]


def test_other_numbers_of_spatial_axes():
    line = of(lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 3, 1), (1, 2, 1), "SAME"), (2, 9, 4), spatial_axes=(1,))
    assert (line.size, line.stride, line.interval((2,))) == ((3,), (2,), ((3, 5),))
    volume = of(
        lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 3, 1, 2, 1), (1, 1, 1, 1, 1), "VALID"),
        (1, 6, 7, 8, 1),
        spatial_axes=(1, 2, 3),
    )
    assert (volume.size, volume.interval((0, 4, 5))) == ((3, 1, 2), ((0, 2), (4, 4), (5, 6)))


def test_a_kernel_made_of_the_input_is_read_too():
    def dynamic(x):
        weights = jnp.broadcast_to(x.mean((0, 1, 2))[None, None, :, None], (3, 3, 2, 2))
        return lax.conv_general_dilated(x, weights, (1, 1), "SAME", dimension_numbers=NHWC)

    assert of(dynamic).is_global == (True, True)


def test_zero_weights_of_a_module_are_weights_all_the_same():
    class Mixer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jnp.moveaxis(nn.Dense(12, kernel_init=nn.initializers.zeros)(jnp.moveaxis(x, 1, -1)), -1, 1)

    assert of(Mixer(), output=0).interval((3, 4)) == ((0, 11), (4, 4))


def test_the_same_net_in_four_frameworks():
    eqx = pytest.importorskip("equinox")
    key, shape = jax.random.key(0), (1, 33, 40, 3)

    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(8, (3, 3), strides=2, padding=1)(x))
            x = nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
            return nn.Conv(8, (5, 5), kernel_dilation=2, padding=4)(x)

    class Nnx(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Conv(3, 8, (3, 3), strides=2, padding=1, rngs=rngs)
            self.second = nnx.Conv(8, 8, (5, 5), kernel_dilation=2, padding=4, rngs=rngs)

        def __call__(self, x):
            x = nnx.max_pool(nnx.relu(self.first(x)), (3, 3), (2, 2), [(1, 1), (1, 1)])
            return self.second(x)

    weights = np.ones((3, 3, 3, 8), np.float32), np.ones((5, 5, 8, 8), np.float32)

    def haiku_style(x):
        def convolve(x, w, stride, padding, dilation):
            return lax.conv_general_dilated(
                x, w, (stride,) * 2, [(padding,) * 2] * 2, rhs_dilation=(dilation,) * 2, dimension_numbers=NHWC
            )

        x = jnp.maximum(convolve(x, weights[0], 2, 1, 1), 0)
        edges = [(0, 0), (1, 1), (1, 1), (0, 0)]
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), edges)
        return convolve(x, weights[1], 1, 4, 2)

    equinox = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(3, 8, 3, 2, 1, key=key),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.MaxPool2d(3, 2, 1),
            eqx.nn.Conv2d(8, 8, 5, 1, 4, 2, key=key),
        ]
    )
    fields = [of(net, shape, output=0) for net in (Linen(), Nnx(nnx.Rngs(0)), haiku_style)]
    fields.append(receptive_field(equinox, (3, 33, 40), output=0, spatial_axes=(1, 2)))
    for field in fields:
        assert (field.size, field.stride, field.padding) == ((39, 39), (4, 4), (19, 19))
        assert field.units == (9, 10)
        assert [field.interval(index) for index in ((0, 0), (4, 5), (8, 9))] == [
            ((0, 19), (0, 19)),
            ((0, 32), (1, 39)),
            ((13, 32), (17, 39)),
        ]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((conv, (1, 0, 15, 2)), ValueError, "expected an input with pixels"),
        ((conv, (12, 15, 2)), ValueError, "Give the batch axis too"),
        ((conv, SHAPE, None, (1, 1)), ValueError, "Name each axis once"),
        ((conv, SHAPE, None, (1, 9)), ValueError, "Name each axis once"),
        ((conv, SHAPE, 3), UsageError, "expected output 0 to 0, got 3"),
        ((conv, SHAPE, "layer"), UsageError, "a function without any"),
        ((Classifier(), (12, 15, 2), "firts"), UsageError, "unknown layer 'firts'"),
        ((lambda x: jnp.ones(3), SHAPE), ValueError, "reads nothing of it"),
        ((3, SHAPE), TypeError, "expected a function or a linen module, got int"),
    ],
)
def test_mistakes_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        receptive_field(*arguments)


def test_units_that_do_not_exist():
    field = of(conv)
    assert field.interval((-1, -1)) == ((10, 11), (13, 14))
    with pytest.raises(IndexError, match="expected index 0 from 0 to 11"):
        field.interval((12, 0))
    with pytest.raises(ValueError, match="expected an index of 2"):
        field.interval((1,))


def test_a_unit_of_padding_alone_reads_nothing_and_says_so_on_both_axes():
    field = of(lambda x: ops.conv2d(x, KERNEL[:1, :1], padding=((0, 0), (2, 2))))
    assert field.interval((3, 1)) == (None, None)
    assert field.interval((3, 1), clip=False) == ((3, 3), (-1, -1))
    assert field.padding == (0, 2)
    twice = of(lambda x: ops.conv2d(ops.conv2d(x, KERNEL[:1, :1], padding=1), KERNEL[:1, :1], padding=1))
    assert twice.interval((0, 5)) == (None, None)
    assert twice.interval((0, 5), clip=False) == ((-2, -2), (3, 3))
    assert (twice.padding, twice.uniform) == ((2, 2), (True, True))
