import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.batch import Batch
from cnnjax.data import augment
from cnnjax.errors import UsageError

RNG = np.random.default_rng(0)
KEY = jax.random.key(1)


def batch_of(images):
    return Batch(image=jnp.asarray(images), label=jnp.arange(len(images), dtype=jnp.int32))


def augmented(names, images, key=KEY):
    """Return what the named augmentations make of images, as a batch; compiled, as in a training step."""
    return jax.jit(augment.parse(names))(batch_of(images), key)


def noise(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def windows(image, pixels, mode):
    """Return NumPy's crops of the padded image, by place."""
    height, width, _ = image.shape
    padded = np.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)), mode=mode)
    places = range(2 * pixels + 1)
    return {(i, j): padded[i : i + height, j : j + width] for i in places for j in places}


def squares(image, size):
    """Return NumPy's images with a square cut out, by its centre."""
    height, width, _ = image.shape
    cut = {}
    for i in range(height):
        for j in range(width):
            top, left = i - size // 2, j - size // 2
            cut[i, j] = image.copy()
            cut[i, j][max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = 0
    return cut


IMAGE = noise(5, 7, 2)
CASES = {
    "translate:1": windows(IMAGE, 1, "edge"),
    "pad-crop:2": windows(IMAGE, 2, "constant"),
    "flip": {"as it is": IMAGE, "mirrored": np.fliplr(IMAGE)},
    "cutout:2": squares(IMAGE, 2),
    "cutout:3": squares(IMAGE, 3),
}
EACH = ["translate:1", "pad-crop:2", "flip", "cutout:3"]


@pytest.mark.parametrize("name", CASES)
def test_each_image_is_one_of_numpys_and_all_are_equally_likely(name):
    outcomes, count = CASES[name], 4000
    done = augmented([name], np.stack([IMAGE] * count))
    index = {image.tobytes(): place for place, image in enumerate(outcomes.values())}
    assert len(index) == len(outcomes)
    seen = np.bincount([index[row.tobytes()] for row in np.array(done.image)], minlength=len(outcomes))
    # Pearson's statistic is close to normal with this mean and variance; five deviations are one in a million.
    expected = count / len(outcomes)
    freedom = len(outcomes) - 1
    assert ((seen - expected) ** 2 / expected).sum() < freedom + 5 * np.sqrt(2 * freedom) + 5
    np.testing.assert_array_equal(done.label, np.arange(count))


def test_what_happens_to_an_example_does_not_depend_on_the_batchs_size():
    images = noise(8, 6, 6, 1)
    whole = augmented(EACH, images)
    part = augmented(EACH, images[:3])
    np.testing.assert_array_equal(whole.image[:3], part.image)
    again = augmented(EACH, images, jax.random.key(2))
    assert not np.array_equal(whole.image, again.image)


def test_offsets_are_randint_of_the_examples_own_key():
    images = noise(6, 9, 8, 3)
    moved = jax.jit(functools.partial(augment.pad_crop, pixels=4))(batch_of(images), KEY)
    for place, (image, row) in enumerate(zip(images, np.array(moved.image))):
        top, left = jax.random.randint(jax.random.fold_in(KEY, place), (2,), 0, 9).tolist()
        np.testing.assert_array_equal(row, windows(image, 4, "constant")[top, left])


def test_square_and_mirror_are_drawn_independently_of_each_other():
    images = np.ones((4000, 4, 4, 1), np.float32) * np.arange(1, 5, dtype=np.float32)[:, None]
    done = np.array(augmented(["flip", "cutout:1"], images).image)[..., 0]
    mirrored = done.max(axis=1)[:, 0] > done.max(axis=1)[:, -1]
    cut_left = (done == 0).any(axis=1)[:, :2].any(axis=1)
    assert abs(np.corrcoef(mirrored, cut_left)[0, 1]) < 0.08


def test_nothing_of_nothing():
    images = noise(4, 6, 6, 1)
    np.testing.assert_array_equal(augmented(["translate:0", "pad-crop:0", "cutout:0"], images).image, images)


def test_the_dtype_is_kept_and_bad_pixels_do_not_spread(strict_dtypes):
    images = noise(64, 6, 6, 1)
    images[0] = np.nan
    done = augmented(EACH, jnp.asarray(images, jnp.bfloat16)).image
    assert done.dtype == jnp.bfloat16
    assert done.shape == images.shape
    assert np.isfinite(np.array(done[1:], np.float32)).all()


def test_augmentations_follow_each_other():
    images = noise(4, 6, 6, 1)
    twice = augmented(["pad-crop:1", "flip"], images)

    @jax.jit
    def by_hand(batch):
        moved = augment.pad_crop(batch, jax.random.fold_in(KEY, 0), pixels=1)
        return augment.flip(moved, jax.random.fold_in(KEY, 1))

    np.testing.assert_array_equal(twice.image, by_hand(batch_of(images)).image)
    assert augment.parse([]) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("translat:2", "did you mean 'translate'"),
        ("translate", "expected translate:PIXELS"),
        ("pad-crop:", "expected pad-crop:PIXELS or pad-crop:PIXELS:BORDER, BORDER one of .*, such as pad-crop:4"),
        ("cutout:-1", "expected cutout:PIXELS"),
        ("cutout:²", "expected cutout:PIXELS"),
        ("flip:2", "augmentation 'flip:2': expected flip, flip:alternating or flip:vertical, such as"),
        ("flip:", "expected flip, flip:alternating"),
    ],
)
def test_wrong_texts(text, message):
    with pytest.raises(UsageError, match=message):
        augment.parse([text])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("translate:4", "translate: expected fewer than 4 pixels"),
        ("pad-crop:4", "pad-crop: expected fewer than 4 pixels"),
        ("cutout:5", "cutout: expected at most 4 pixels, the image's side, got 5"),
    ],
)
def test_numbers_that_do_not_fit_the_image(text, message):
    with pytest.raises(UsageError, match=message):
        augment.parse([text])(batch_of(noise(2, 4, 6, 1)), KEY)
