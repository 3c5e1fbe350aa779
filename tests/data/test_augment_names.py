"""Augmentations by name: every form, and what is said about the others."""

import jax
import numpy as np
import pytest

from cnnjax.data import augment
from cnnjax.errors import UsageError
from tests.data.augmenting import batch_of, pixels

KEY = jax.random.key(0)
COLOURS = {"mean": (0.5, 0.4, 0.3), "std": 0.25}
FORMS = {
    "flip": augment.flip,
    "flip:vertical": augment.flip_vertical,
    "pad-crop:3": lambda b, k: augment.pad_crop(b, k, pixels=3),
    "pad-crop:3:reflect": lambda b, k: augment.pad_crop(b, k, pixels=3, border="reflect"),
    "pad-crop:0003:edge": lambda b, k: augment.pad_crop(b, k, pixels=3, border="edge"),
    "translate:2": lambda b, k: augment.translate(b, k, pixels=2),
    "translate:2:reflect": lambda b, k: augment.translate(b, k, pixels=2, border="reflect"),
    "cutout:4": lambda b, k: augment.cutout(b, k, size=4),
    "random-resized-crop": augment.random_resized_crop,
    "random-resized-crop:5": lambda b, k: augment.random_resized_crop(b, k, size=5),
    "scale-jitter:9-12": lambda b, k: augment.scale_jitter(b, k, low=9, high=12),
    "scale-jitter:9-12:6": lambda b, k: augment.scale_jitter(b, k, low=9, high=12, size=6),
    "mixup:0.2": lambda b, k: augment.mixup(b, k, alpha=0.2),
    "cutmix:1": lambda b, k: augment.cutmix(b, k, alpha=1.0),
    "colour-jitter:.4": lambda b, k: augment.colour_jitter(
        b, k, brightness=0.4, contrast=0.4, saturation=0.4, **COLOURS
    ),
    "color-jitter:0.1:0.2:0:0.5": lambda b, k: augment.colour_jitter(
        b, k, brightness=0.1, contrast=0.2, hue=0.5, **COLOURS
    ),
    "randaugment:3:17": lambda b, k: augment.randaugment(b, k, num_ops=3, magnitude=17, **COLOURS),
}


@pytest.mark.parametrize("text", FORMS)
def test_a_name_is_the_function_with_its_numbers(text):
    """The same program, operation for operation: nothing needs to be computed."""
    batch = batch_of(pixels(0, 4, 9, 10, 3))
    named = augment.parse([text], **COLOURS)
    expected = jax.make_jaxpr(lambda b, k: FORMS[text](b, jax.random.fold_in(k, 0)))(batch, KEY)
    assert str(jax.make_jaxpr(named)(batch, KEY)) == str(expected)


def test_names_without_a_mean_are_for_images_in_0_to_1():
    images = pixels(1, 3, 6, 7, 3)
    change = augment.parse(["colour-jitter:0.3:0:0:0"])
    direct = augment.colour_jitter(batch_of(images), jax.random.fold_in(KEY, 0), brightness=0.3)
    np.testing.assert_array_equal(change(batch_of(images), KEY).image, direct.image)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("translat:2", "did you mean 'translate'"),
        ("translate", "expected translate:PIXELS"),
        ("pad-crop:", "expected pad-crop:PIXELS or pad-crop:PIXELS:BORDER, BORDER one of .*, such as pad-crop:4"),
        ("cutout:-1", "expected cutout:PIXELS"),
        ("cutout:²", "expected cutout:PIXELS"),
        ("flip:2", "augmentation 'flip:2': expected flip, flip:alternating or flip:vertical, such as"),
        ("pad-crop:4:wrap", "BORDER one of zeros, edge, reflect"),
        ("pad-crop:4:edge:2", "expected pad-crop:PIXELS or"),
        ("cutout:1:2", r"expected cutout:PIXELS, such as cutout:16\."),
        ("random-resized-crop:0", "expected random-resized-crop or random-resized-crop:SIZE, such as"),
        ("random-resized-crop:5:5", "random-resized-crop:SIZE, such as random-resized-crop:224"),
        ("scale-jitter", "expected scale-jitter:LOW-HIGH or scale-jitter:LOW-HIGH:SIZE, such as scale-jitter:256-512"),
        ("scale-jitter:256", "expected scale-jitter:LOW-HIGH"),
        ("scale-jitter:512-256", "expected scale-jitter:LOW-HIGH"),
        ("color-jitter:-1", "'color-jitter:-1': expected colour-jitter:AMOUNT or"),
        ("colour-jitter:0.1:0.2", "colour-jitter:BRIGHTNESS:CONTRAST:SATURATION:HUE, HUE at most 0.5"),
        ("colour-jitter:0.1:0.2:0.3:0.6", "HUE at most 0.5, such as colour-jitter:0.4"),
        ("colour-jitter:nan", "expected colour-jitter:AMOUNT"),
        ("randaugment:2", "expected randaugment:OPERATIONS:MAGNITUDE, MAGNITUDE at most 30, such as randaugment:2:9"),
        ("randaugment:2:31", "MAGNITUDE at most 30"),
        ("mixup", "expected mixup:ALPHA, ALPHA more than 0, such as mixup:0.2"),
        ("mixup:0", "ALPHA more than 0"),
        ("cutmix:1e3", "expected cutmix:ALPHA"),
        ("mixcut:1", "did you mean 'mixup'|did you mean 'cutmix'"),
        ("flip:", "expected flip, flip:alternating"),
    ],
)
def test_wrong_texts(text, message):
    with pytest.raises(UsageError, match=message):
        augment.parse([text])
