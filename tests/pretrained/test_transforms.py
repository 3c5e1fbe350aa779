"""Transformations of values: what torch computes with a kernel, our layout computes too, and back exactly."""

import numpy as np
import pytest

from cnnjax.pretrained.transforms import from_channels_first, identity, to_channels_first

RANDOM = np.random.default_rng(0)


def test_a_dense_kernel_reads_the_map_in_the_other_order():
    kernel = RANDOM.standard_normal((40, 5 * 2 * 3))
    image = RANDOM.standard_normal((7, 2, 3, 5))
    transform = from_channels_first(kernel.shape, flatten=(2, 3))
    ours = image.reshape(7, -1) @ transform.apply(kernel)
    theirs = image.transpose(0, 3, 1, 2).reshape(7, -1) @ kernel.T
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_a_convolution_over_the_whole_map_is_a_dense_layer():
    kernel = RANDOM.standard_normal((40, 5, 2, 3))
    image = RANDOM.standard_normal((7, 2, 3, 5))
    ours = image.reshape(7, -1) @ from_channels_first(kernel.shape, dense=True).apply(kernel)
    np.testing.assert_allclose(ours, np.einsum("nhwc,ochw->no", image, kernel), rtol=1e-12)


@pytest.mark.parametrize(
    ("shape", "options", "target"),
    [
        ((33, 5, 2, 3), {}, (2, 3, 5, 33)),
        ((33, 5), {}, (5, 33)),
        ((33, 12), {"flatten": (2, 3)}, (12, 33)),
        ((33, 13), {"flatten": (2, 3)}, (13, 33)),
        ((33, 5, 2, 3), {"dense": True}, (30, 33)),
        ((0, 5), {}, (5, 0)),
    ],
)
def test_undoing_gives_the_same_bits(shape, options, target):
    values = RANDOM.standard_normal(shape).astype(np.float32)
    transform = from_channels_first(shape, **options)
    found = transform.apply(values)
    assert found.shape == transform.target == target
    np.testing.assert_array_equal(transform.undo(found), values)


@pytest.mark.parametrize("target", [(2, 3, 5, 7), (5, 7)])
def test_the_transform_that_leads_to_a_shape(target):
    assert to_channels_first(target).target == target
    assert to_channels_first((12, 7), flatten=(2, 3)).parted == (7, 2, 2, 3)


def test_identity_changes_nothing():
    values = RANDOM.standard_normal((3, 4))
    assert identity((3, 4)).apply(values) is not None
    np.testing.assert_array_equal(identity((3, 4)).apply(values), values)
    np.testing.assert_array_equal(identity(()).apply(np.float32(3)), 3)
