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
    "pad-crop:2:reflect": windows(IMAGE, 2, "reflect"),
    "translate:1:zeros": windows(IMAGE, 1, "constant"),
    "flip": {"as it is": IMAGE, "mirrored": np.fliplr(IMAGE)},
    "flip:vertical": {"as it is": IMAGE, "mirrored": np.flipud(IMAGE)},
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


def test_alternating_flips_start_at_random_and_show_each_pair_of_epochs_both_ways():
    images, index = noise(300, 3, 4, 2), jnp.asarray(RNG.permutation(300), jnp.int32)
    change = jax.jit(augment.parse(["flip:alternating"]))
    epochs = [np.array(change(batch_of(images).replace(index=index, epoch=jnp.int32(e)), KEY).image) for e in range(4)]
    mirrored = (epochs[0] != images).any((1, 2, 3))
    assert 100 < mirrored.sum() < 200
    np.testing.assert_array_equal(epochs[0], np.where(mirrored[:, None, None, None], images[:, :, ::-1], images))
    np.testing.assert_array_equal(epochs[1], epochs[0][:, :, ::-1])
    np.testing.assert_array_equal(epochs[2], epochs[0])
    np.testing.assert_array_equal(epochs[3], epochs[1])
    each = np.where(np.arange(300) < 100, 1, 2)  # a batch across the end of an epoch
    crossing = change(batch_of(images).replace(index=index, epoch=jnp.asarray(each, jnp.int32)), KEY).image
    np.testing.assert_array_equal(crossing, np.where(each[:, None, None, None] == 1, epochs[1], epochs[2]))


@pytest.mark.parametrize("fields", [{}, {"index": jnp.arange(2)}, {"epoch": jnp.int32(1)}])
def test_alternating_flips_need_to_know_the_examples(fields):
    with pytest.raises(UsageError, match="flip:alternating: expected a batch with index and epoch"):
        augment.parse(["flip:alternating"])(batch_of(noise(2, 3, 4, 1)).replace(**fields), KEY)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("translate:4", "translate: expected fewer than 4 pixels"),
        ("pad-crop:4", "pad-crop: expected fewer than 4 pixels"),
        ("pad-crop:4:reflect", "pad-crop: expected fewer than 4 pixels"),
        ("cutout:5", "cutout: expected at most 4 pixels, the image's side, got 5"),
    ],
)
def test_numbers_that_do_not_fit_the_image(text, message):
    with pytest.raises(UsageError, match=message):
        augment.parse([text])(batch_of(noise(2, 4, 6, 1)), KEY)


def test_an_unknown_border():
    with pytest.raises(UsageError, match="expected a border of zeros, edge, reflect, got 'wrap'"):
        augment.translate(batch_of(noise(2, 4, 6, 1)), KEY, pixels=1, border="wrap")
