import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

import cnnjax
from cnnjax import models
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
