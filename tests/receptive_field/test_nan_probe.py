"""The theory against the probe: intervals of random functions are the hull of what a NaN reaches, borders included."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax.receptive_field import probe, receptive_field
from tests.receptive_field.random_functions import CHANNELS, functions, movable

images = st.tuples(st.integers(5, 12), st.integers(5, 12))


def check(function, image):
    shape = (1, *image, CHANNELS)
    field, support = receptive_field(function, shape, output=0), probe(function, shape)
    for index in itertools.product(*map(range, field.units)):
        assert field.interval(index) == support.interval(index), (index, field)


@given(functions(), images)
@settings(max_examples=10)
def test_the_interval_of_every_unit_is_the_hull_of_what_the_probe_finds(function, image):
    check(function, image)


@pytest.mark.slow
@given(functions(), images)
@settings(max_examples=300)
def test_300_random_functions(function, image):
    check(function, image)


@given(movable(), st.data())
@settings(max_examples=20)
def test_what_is_said_beyond_the_border_is_there_once_the_image_is_larger(function, data):
    """Size, stride and padding by tracing alone: every whole stride of pixels put before the image moves all units."""
    height, width, more = (data.draw(st.integers(*span)) for span in ((17, 24), (17, 24), (1, 3)))
    small = receptive_field(function, (1, height, width, CHANNELS), output=0)
    assert min(small.units) > 1
    assert all(isinstance(stride, int) for stride in small.stride)
    everything = [small.interval(index, clip=False) for index in itertools.product(*map(range, small.units))]
    steps = []
    for axis, (size, stride) in enumerate(zip(small.size, small.stride)):
        over = max(max(size, -one[axis][0], one[axis][1] - size) for one in everything)
        steps.append(stride * (more + over // stride))
    large = receptive_field(function, (1, height + 2 * steps[0], width + 2 * steps[1], CHANNELS), output=0)
    assert (large.size, large.stride, large.padding) == (small.size, small.stride, small.padding)
    for index in itertools.product(*map(range, small.units)):
        moved = [i + step // stride for i, step, stride in zip(index, steps, small.stride)]
        found = large.interval(moved)
        assert None not in found
        expected = [(pair[0] - step, pair[1] - step) for pair, step in zip(found, steps) if pair]
        assert list(small.interval(index, clip=False)) == expected
