import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

import cnnjax
from cnnjax import models, ops
from cnnjax.jaxpr import count_macs
from cnnjax.layers import ConvNormAct


def table(name, shape=None, **options):
    model = models.build(name, **options)
    return cnnjax.summary(model, shape or model.input_shape)


def test_lenet5_row_by_row():
    rows = table("lenet5", num_classes=10).rows
    # LeCun et al., 1998: connections of C1, C3 (dense here), C5, F6 and the output, less their biases.
    assert [(r.path, r.kind, r.output_shape, r.params, r.macs) for r in rows] == [
        ("c1", "Conv", (28, 28, 6), 156, 28 * 28 * 25 * 6),
        ("s2", "MaxPool", (14, 14, 6), 0, 0),
        ("c3", "Conv", (10, 10, 16), 2416, 10 * 10 * 150 * 16),
        ("s4", "MaxPool", (5, 5, 16), 0, 0),
        ("c5", "Dense", (120,), 48_120, 48_000),
        ("f6", "Dense", (84,), 10_164, 10_080),
        ("output", "Dense", (10,), 850, 840),
    ]
    assert [r.receptive_field for r in rows] == [(5, 5), (6, 6), (14, 14), (16, 16), None, None, None]
    assert rows[0].activation_bytes == 4 * 28 * 28 * 6


# torchvision's documentation of its weights, GFLOPS (which counts multiply-accumulates) and num_params.
@pytest.mark.parametrize(
    ("name", "gmacs", "params"),
    [
        ("vgg16", 15.47, 138_357_544),
        ("alexnet", 0.71, 61_100_840),
        ("resnet18", 1.81, 11_689_512),
        ("resnet50", 4.09, 25_557_032),
    ],
)
def test_totals_are_the_published_ones(name, gmacs, params):
    found = table(name)
    assert round(found.macs / 1e9, 2) == gmacs
    assert found.params == params == sum(row.params for row in found.rows)
    assert found.macs == sum(row.macs for row in found.rows)
    assert found.activation_bytes == sum(row.activation_bytes for row in found.rows)


def test_statistics_are_counted_beside_the_parameters():
    # Keras counts both: 25,636,712.
    found = table("resnet50_v1")
    assert (found.params, found.params + found.statistics) == (25_583_592, 25_636_712)


def test_rows_of_a_residual_net_hold_its_fields():
    found = {row.path: row for row in table("resnet20", num_classes=10).rows}
    assert found["stage1_block0/conv1/norm"].kind == "BatchNorm"
    assert found["stage1_block0/conv1/norm"].receptive_field == found["stage1_block0/conv1/conv"].receptive_field
    # 3x3 stem, then two 3x3 a block: 3 + 2 * 2.
    assert found["stage1_block0/conv2/conv"].receptive_field == (7, 7)
    assert found["head/logits"].output_shape == (10,)


class Shared(nn.Module):
    """Calls a layer twice, multiplies by itself, and drops nothing in evaluation."""

    @nn.compact
    def __call__(self, x, *, train=False):
        layer = ConvNormAct(3, 1, name="layer")
        x = layer(layer(x, train=train), train=train)
        weight = self.param("weight", nn.initializers.ones, (3, 5))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return x.mean(axis=(1, 2)) @ weight


def test_a_shared_layer_costs_twice_and_counts_once():
    found = cnnjax.summary(Shared(), (8, 6, 3))
    assert [(r.path, r.kind, r.params, r.macs) for r in found.rows] == [
        ("layer/conv", "Conv", 12, 8 * 6 * 9),
        ("layer/conv", "Conv", 0, 8 * 6 * 9),
        ("", "Shared", 15, 15),
    ]
    assert (found.params, found.macs) == (27, 2 * 8 * 6 * 9 + 15)


class Modeless(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(x.reshape(x.shape[0], -1))


def test_a_module_without_modes():
    assert cnnjax.summary(Modeless(), (2, 3, 1)).params == 28


def test_nothing_is_allocated():
    live = len(jax.live_arrays())
    assert table("vgg16").params == 138_357_544
    assert len(jax.live_arrays()) <= live + 2  # the key


def test_prints_a_table_with_totals():
    lines = str(table("lenet5", num_classes=10)).splitlines()
    assert lines[0].split() == ["path", "kind", "output", "parameters", "MACs", "memory", "field"]
    assert lines[2].split() == ["c1", "Conv", "28", "x", "28", "x", "6", "156", "117,600", "18.4", "KiB", "5"]
    assert lines[-2].split()[:3] == ["total", "61,706", "416,520"]
    assert lines[-1] == "LeNet5 on one 32x32x1 image: 61,706 parameters, 417 kMACs"


def test_refuses_a_batch_axis():
    with pytest.raises(ValueError, match=r"expected input_shape \(H, W, C\), got \(1, 32, 32, 1\)"):
        cnnjax.summary(models.build("lenet5"), (1, 32, 32, 1))


def test_compute_dtype_is_the_memorys():
    wide, narrow = table("lenet5", num_classes=10), table("lenet5", num_classes=10, dtype=jnp.bfloat16)
    assert narrow.rows[0].activation_bytes * 2 == wide.rows[0].activation_bytes


class Calls(nn.Module):
    """Does with a 3x3 convolution of 3 channels (84 parameters) what its function says."""

    body: Callable

    @nn.compact
    def __call__(self, x):
        return self.body(x)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Conv(3, (3, 3))(x))


def on_two_sizes(x):
    conv = nn.Conv(3, (3, 3))
    return conv(x).mean() + conv(x[:, ::2, ::2])


def after_itself(x):
    conv = nn.Conv(3, (3, 3))
    return conv(conv(x))


def jitted_twice(x):
    block = nn.jit(Block)
    return block()(block()(x))


def scanned(x):
    stack = nn.scan(
        lambda conv, x, _: (conv(x), None), variable_axes={"params": 0}, split_rngs={"params": True}, length=4
    )
    return stack(nn.Conv(3, (3, 3)), x, None)[0]


def mapped(x):
    heads = nn.vmap(
        nn.Conv, in_axes=None, out_axes=0, axis_size=3, variable_axes={"params": 0}, split_rngs={"params": True}
    )
    return heads(3, (3, 3))(x).sum(0)


def rematerialised(x):
    return nn.remat(Block)()(nn.remat(Block)()(x))


@pytest.mark.parametrize(
    ("body", "params", "macs", "fields", "memory"),
    [
        (on_two_sizes, [84, 0], [82_944, 20_736], [3, 5], 12_288 + 3072),
        (after_itself, [84, 0], [82_944, 82_944], [3, 5], 2 * 12_288),
        (jitted_twice, [84, 84], [82_944, 82_944], [3, 5], 2 * 12_288),
        (rematerialised, [84, 84], [82_944, 82_944], [3, 5], 2 * 12_288),
        (scanned, [336, 0, 0, 0], [82_944] * 4, [3, 5, 7, 9], 49_152),
        (mapped, [252], [3 * 82_944], [3], 36_864),
    ],
)
def test_rows_are_calls_whatever_calls_them(body, params, macs, fields, memory):
    found = cnnjax.summary(Calls(body), (32, 32, 3))
    rows = [row for row in found.rows if row.kind == "Conv"]
    assert [row.params for row in rows] == params
    assert [row.macs for row in rows] == macs
    assert [row.receptive_field for row in rows] == [(field, field) for field in fields]
    assert sum(row.activation_bytes for row in rows) == memory
    assert (found.params, found.macs) == (sum(params), sum(macs))


@pytest.mark.parametrize("strides", [1, 2])
def test_a_transposed_convolution_costs_what_its_input_makes(strides):
    # fvcore's count: every pixel meets every tap.
    expected = 15 * 15 * 3 * 3 * 10 * 3
    layer = nn.ConvTranspose(3, (3, 3), (strides, strides), padding="VALID")
    assert cnnjax.summary(layer, (15, 15, 10)).macs == expected
    x, kernel = jnp.ones((1, 15, 15, 10)), jnp.ones((3, 3, 10, 3))
    for dtype in (jnp.float32, jnp.int32):  # the primitive's own role, and the platform's convolution
        up = functools.partial(ops.conv_transpose2d, strides=strides, padding="VALID")
        assert count_macs(up, x.astype(dtype), kernel.astype(dtype)) == expected
