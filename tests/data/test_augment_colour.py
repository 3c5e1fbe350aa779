"""Colour operations against torchvision's, colorsys and plain NumPy."""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.data import augment
from cnnjax.data.augment import colour
from cnnjax.errors import UsageError
from tests.data.augmenting import MEAN, STD, batch_of, compiled, pixels, theirs

KEY = jax.random.key(3)
FACTORS = {
    "adjust_brightness": (0.0, 0.37, 1.0, 1.9),
    "adjust_contrast": (0.0, 0.41, 1.0, 1.83),
    "adjust_saturation": (0.0, 0.29, 1.0, 2.2),
    "adjust_hue": (-0.5, -0.13, 0.0, 0.08, 0.31, 0.5),
}


@pytest.mark.parametrize("name", FACTORS)
def test_each_operation_is_torchvisions(name):
    ours = jax.jit(jax.vmap(getattr(colour, name), in_axes=(0, None)))
    for channels in (3, 1):
        images = pixels(channels, 6, 7, 10, channels)
        for factor in FACTORS[name]:
            expected = np.stack([theirs(name, image, factor) for image in images])
            np.testing.assert_allclose(ours(images, jnp.float32(factor)), expected, atol=1e-5)


def test_hue_is_colorsyss():
    image = np.random.default_rng(5).random((40, 25, 3)).astype(np.float32)
    turned = np.array(colour.adjust_hue(jnp.asarray(image), 0.217))
    for before, after in zip(image.reshape(-1, 3).tolist(), turned.reshape(-1, 3)):
        h, s, v = colorsys.rgb_to_hsv(*before)
        np.testing.assert_allclose(after, colorsys.hsv_to_rgb((h + 0.217) % 1, s, v), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("brightness", lambda x, f: x * f),
        ("contrast", lambda x, f: f * x + (1 - f) * (x @ [0.2989, 0.587, 0.114]).mean()),
        ("saturation", lambda x, f: f * x + (1 - f) * (x @ [0.2989, 0.587, 0.114])[..., None]),
    ],
)
def test_jitters_of_normalised_images_are_numpys_with_a_uniform_factor(name, formula):
    """The factor that fits is found for each image; it must fit all of its pixels, and lie where it may."""
    images = pixels(2, 400, 5, 6, 3)
    change = functools.partial(augment.colour_jitter, **{name: 0.6}, mean=MEAN, std=STD)
    done = np.array(jax.jit(change)(batch_of((images - MEAN) / STD), KEY).image) * STD + MEAN
    factors = []
    for before, after in zip(images.astype(np.float64), done):
        if np.ptp(before @ [0.2989, 0.587, 0.114]) == 0 or np.ptp(before, -1).max() == 0:
            continue
        zero, one = formula(before, 0.0), formula(before, 1.0)
        inside = (after > 1e-4) & (after < 1 - 1e-4) & (np.abs(one - zero) > 0.02)
        (factor,) = np.linalg.lstsq((one - zero)[inside][:, None], (after - zero)[inside])[0]
        np.testing.assert_allclose(after, np.clip(formula(before, factor), 0, 1), atol=1e-5)
        factors.append(factor)
    assert len(factors) > 390
    # Uniform in [0.4, 1.6]: the greatest gap to the distribution is beyond 1.95 / sqrt(n) once in a thousand.
    ordered = np.sort(factors)
    assert ordered[0] >= 0.4 - 1e-5
    assert ordered[-1] <= 1.6 + 1e-5
    gap = np.abs((ordered - 0.4) / 1.2 - (np.arange(len(ordered)) + 0.5) / len(ordered)).max()
    assert gap < 1.95 / np.sqrt(len(ordered))


def test_operations_come_in_either_order():
    """Red, times more than 1 and cut off, then paled, or paled first: then there is more light in it than 1."""
    red = np.zeros((600, 1, 1, 3), np.float32) + np.array([1, 0, 0], np.float32)
    done = np.array(compiled("colour-jitter:1:0:1:0")(batch_of(red), KEY).image)[:, 0, 0]
    paled = done[(done[:, 1] > 1e-3) & (done[:, 0] < 1 - 1e-6)]
    light = paled[:, 0] - paled[:, 1] + paled[:, 1] / 0.2989
    brightened_first, paled_first = np.abs(light - 1) < 1e-5, light > 1.01
    assert 40 < brightened_first.sum() < 110  # an eighth of 600 is expected
    assert 15 < paled_first.sum() < 110


def test_the_hue_turns_either_way_and_no_further_than_asked():
    image = np.full((400, 1, 1, 3), [0.8, 0.3, 0.3], np.float32)
    done = np.array(compiled("colour-jitter:0:0:0:0.1")(batch_of(image), KEY).image)[:, 0, 0]
    hues = np.array([colorsys.rgb_to_hsv(*rgb)[0] for rgb in done.tolist()])
    hues = (hues + 0.5) % 1 - 0.5
    assert -0.1 - 1e-5 <= hues.min() < -0.095
    assert 0.095 < hues.max() <= 0.1 + 1e-5
    assert abs(hues.mean()) < 0.012


def test_grey_images_have_no_saturation_and_hue():
    grey = pixels(4, 5, 6, 4, 1)
    same = compiled("colour-jitter:0:0:0.9:0.5")(batch_of(grey), KEY).image
    np.testing.assert_array_equal(same, grey)
    assert not np.array_equal(compiled("colour-jitter:0.9:0:0:0")(batch_of(grey), KEY).image, grey)


def test_no_amount_is_no_change():
    images = pixels(6, 4, 3, 5, 3) - MEAN
    np.testing.assert_array_equal(compiled("colour-jitter:0")(batch_of(images), KEY).image, images)


@pytest.mark.parametrize("name", ["colour-jitter:0.4", "randaugment:1:5"])
def test_colours_need_grey_or_rgb_and_as_many_means(name):
    with pytest.raises(UsageError, match=r"expected images of 1 or 3 channels, grey or RGB, got 2\."):
        augment.parse([name])(batch_of(np.zeros((2, 4, 4, 2), np.float32)), KEY)
    with pytest.raises(UsageError, match="for each of 1 channels, got 3"):
        augment.parse([name], mean=tuple(MEAN))(batch_of(np.zeros((2, 4, 4, 1), np.float32)), KEY)


def test_impossible_amounts():
    with pytest.raises(UsageError, match="hue of at most"):
        augment.colour_jitter(batch_of(pixels(0, 2, 4, 4, 3)), KEY, hue=0.6)
