import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.batch import Batch
from cnnjax.data import augment
from cnnjax.errors import UsageError


def batch_of(images):
    return Batch(image=jnp.asarray(images), label=jnp.arange(len(images), dtype=jnp.int32))


def test_each_image_is_one_of_numpys_shifts_and_every_shift_occurs():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 7, 2)).astype(np.float32)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    shifts = {(i, j): padded[i : i + 5, j : j + 7] for i in range(3) for j in range(3)}
    moved = augment.translate(batch_of(np.stack([image] * 200)), jax.random.key(0), pixels=1)
    seen = [next(at for at, s in shifts.items() if np.array_equal(s, row)) for row in np.array(moved.image)]
    assert set(seen) == set(shifts)
    np.testing.assert_array_equal(moved.label, np.arange(200))


def test_an_examples_shift_does_not_depend_on_the_batchs_size():
    images = np.random.default_rng(0).normal(size=(8, 6, 6, 1)).astype(np.float32)
    whole = augment.translate(batch_of(images), jax.random.key(1), pixels=2)
    part = augment.translate(batch_of(images[:3]), jax.random.key(1), pixels=2)
    np.testing.assert_array_equal(whole.image[:3], part.image)
    again = augment.translate(batch_of(images), jax.random.key(2), pixels=2)
    assert not np.array_equal(whole.image, again.image)


def test_augmentations_are_named_and_follow_each_other():
    images = np.random.default_rng(0).normal(size=(4, 6, 6, 1)).astype(np.float32)
    none = augment.parse(["translate:0"])
    np.testing.assert_array_equal(none(batch_of(images), jax.random.key(0)).image, images)
    twice = augment.parse(["translate:1", "translate:1"])
    assert twice(batch_of(images), jax.random.key(0)).image.shape == images.shape
    assert augment.parse([]) is None
    with pytest.raises(UsageError, match="did you mean 'translate'"):
        augment.parse(["translat:2"])
    with pytest.raises(UsageError, match="expected translate:PIXELS"):
        augment.parse(["translate"])
