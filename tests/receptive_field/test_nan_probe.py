"""The theory against the probe: intervals of random functions are the hull of what a NaN reaches, borders included."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax.receptive_field import probe, receptive_field
from tests.receptive_field.random_functions import CHANNELS, functions

images = st.tuples(st.integers(5, 12), st.integers(5, 12))


def check(function, image):
    shape = (1, *image, CHANNELS)
    field, support = receptive_field(function, shape, output=0), probe(function, shape)
    for index in itertools.product(*map(range, field.units)):
        assert field.interval(index) == support.interval(index), (index, field)


@given(functions(), images)
@settings(max_examples=25)
def test_the_interval_of_every_unit_is_the_hull_of_what_the_probe_finds(function, image):
    check(function, image)


@pytest.mark.slow
@given(functions(), images)
@settings(max_examples=300)
def test_300_random_functions(function, image):
    check(function, image)
