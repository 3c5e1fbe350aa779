"""Where no law says how units are spaced, a stride is one that the units have, or none."""

import jax
import numpy as np
import pytest

from cnnjax.receptive_field import receptive_field

RANDOM = np.random.default_rng(6)


def picked(rows):
    return receptive_field(lambda x: x[:, np.asarray(rows)], (1, 12, 5, 1))


def test_units_in_any_order_have_no_stride():
    for _ in range(40):
        rows = RANDOM.permutation(12)
        if max(np.unique(np.diff(rows), return_counts=True)[1]) < 7:  # those that a roll leaves together have one
            field = picked(rows)
            assert (field.stride[0], field.padding[0], field.centre[0]) == (None, None, None), rows
            assert (field.size, field.stride[1]) == ((1, 1), 1)


@pytest.mark.parametrize(
    ("rows", "stride"),
    [
        ([0, 5, 2, 7, 4, 9, 11, 1], None),
        ([0, 1, 2, 7, 8, 9, 10, 11], None),  # two stretches, neither of them all there is
        ([10, 11, *range(10)], 1),  # rolled
        ([*range(12)][::-1], -1),
        ([1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10], 1),  # back and forth, but evenly
        ([0, 0, 1, 1], 0.5),
        ([0, 1, 3, 4, 6, 7, 9, 10], 1.5),
    ],
)
def test_strides_of_rows_that_are_listed(rows, stride):
    assert picked(rows).stride[0] == stride


@pytest.mark.parametrize(("size", "stride"), [(18, 2 / 3), (6, 2)])
def test_strides_of_resized_images(size, stride):
    field = receptive_field(lambda x: jax.image.resize(x, (1, size, 5, 1), "bilinear"), (1, 12, 5, 1))
    assert field.stride == (stride, 1)
