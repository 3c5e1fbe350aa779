"""Random resized crops and scale jitter against torchvision's resizing and its way of drawing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.data import augment
from cnnjax.data.augment import resize
from cnnjax.errors import UsageError
from tests.data.augmenting import batch_of, compiled, pixels, theirs
from tests.pretrained.torchvision_oracle import torchvision

KEY = jax.random.key(11)


@pytest.mark.parametrize(("size", "channels"), [((12, 9), 3), ((5, 4), 1), ((31, 40), 3)])
def test_a_resized_part_is_torchvisions(size, channels):
    rng = np.random.default_rng(size[0])
    image = pixels(1, 2, 17, 22, channels)[0]
    crop = jax.jit(functools.partial(resize.resize_box, size=size))
    for _ in range(25):
        height, width = int(rng.integers(1, 18)), int(rng.integers(1, 23))
        top, left = int(rng.integers(0, 18 - height)), int(rng.integers(0, 23 - width))
        ours = crop(image, tuple(map(jnp.int32, (top, left, height, width))))
        expected = theirs("resized_crop", image, top, left, height, width, list(size), antialias=True)
        np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(24, 40), pytest.param(8, 60, marks=pytest.mark.slow)])
def test_parts_are_distributed_as_torchvisions(height, width):
    torchvision()
    import torch
    from torchvision.transforms.v2 import RandomResizedCrop

    count, keys = 3000, jax.random.split(KEY, 3000)
    draw = jax.jit(jax.vmap(lambda k: jnp.stack(resize.random_box(k, height, width, (0.08, 1.0), (3 / 4, 4 / 3)))))
    ours = np.array(draw(keys))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        crop = RandomResizedCrop(4)
        found = [crop.make_params([torch.empty(3, height, width)]) for _ in range(count)]
    theirs_ = np.array([[p["top"], p["left"], p["height"], p["width"]] for p in found])
    assert (ours.min(0) >= [0, 0, 1, 1]).all()
    assert ((ours[:, :2] + ours[:, 2:]) <= [height, width]).all()
    # Kolmogorov-Smirnov of two samples, of each number and of the area; beyond 2.2 once in ten thousand.
    area, their_area = ours[:, 2:].prod(1), theirs_[:, 2:].prod(1)
    for mine, other in [*zip(ours.T, theirs_.T), (area, their_area)]:
        grid = np.unique(np.concatenate([mine, other]))
        gap = np.abs(np.searchsorted(np.sort(mine), grid, "right") - np.searchsorted(np.sort(other), grid, "right"))
        assert gap.max() / count < 2.2 * np.sqrt(2 / count)


def test_a_part_that_never_fits_is_the_centre():
    box = jax.jit(lambda k: jnp.stack(resize.random_box(k, 4, 40, (1.0, 1.0), (0.9, 1.1))))(KEY)
    np.testing.assert_array_equal(box, [0, 18, 4, 4])


def test_each_image_gets_the_part_that_its_own_key_draws():
    images = pixels(7, 5, 10, 13, 3)
    done = compiled("random-resized-crop:6")(batch_of(images), KEY).image
    draw = jax.jit(lambda k: resize.random_box(k, 10, 13, (0.08, 1.0), (3 / 4, 4 / 3)))
    boxes = set()
    for place, (image, after) in enumerate(zip(images, done)):
        key = jax.random.fold_in(jax.random.fold_in(KEY, 0), place)  # the chain's first step, then the example
        top, left, height, width = map(int, draw(key))
        boxes.add((top, left, height, width))
        expected = theirs("resized_crop", image, top, left, height, width, [6, 6], antialias=True)
        np.testing.assert_allclose(after, expected, atol=1e-5)
    assert len(boxes) == 5


def test_scale_jitter_is_a_window_of_torchvisions_resized_image():
    image = pixels(3, 2, 13, 18, 3)[0]
    low, high, size = 10, 16, (9, 12)
    change = jax.jit(functools.partial(augment.scale_jitter, low=low, high=high, size=size))
    done = np.array(change(batch_of(np.stack([image] * 120)), KEY).image)
    resized = {s: theirs("resize", image, [s], antialias=True) for s in range(low, high + 1)}
    seen = set()
    for window in done:
        found = []
        for scale, whole in resized.items():
            views = np.lib.stride_tricks.sliding_window_view(whole, (*size, 3))[:, :, 0]
            found += [(scale, *at) for at in np.argwhere(np.abs(views - window).max((2, 3, 4)) < 1e-5).tolist()]
        assert len(found) == 1
        seen.add(found[0])
    assert {scale for scale, _, _ in seen} == set(resized)
    assert len(seen) > 60


def test_a_window_that_does_not_fit():
    with pytest.raises(UsageError, match="9x12 images hold a window of 8x8, got 7; raise it"):
        augment.parse(["scale-jitter:7-20:8"])(batch_of(pixels(0, 2, 9, 12, 3)), KEY)
    with pytest.raises(UsageError, match="least scale first, such as 256-512, got 9-8"):
        augment.scale_jitter(batch_of(pixels(0, 2, 9, 12, 3)), KEY, low=9, high=8)
