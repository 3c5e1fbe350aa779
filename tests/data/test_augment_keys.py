"""What happens to an example depends on the example and the epoch, and on nothing else, to the last bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.data import augment
from tests.data.augmenting import MEAN, STD, batch_of, compiled, pixels

KEY = jax.random.key(7)
COLOURS = {"mean": tuple(map(float, MEAN)), "std": tuple(map(float, STD))}
CHAINS = [
    ("flip", "flip:alternating", "flip:vertical", "pad-crop:2", "translate:1:reflect", "cutout:3"),
    ("colour-jitter:0.4:0.4:0.4:0.1",),
    ("random-resized-crop", "scale-jitter:12-19:8"),
    ("randaugment:2:9",),
]
IMAGES = (pixels(0, 13, 9, 11, 3) - MEAN) / STD


def taken(chain, places, epochs, images=IMAGES):
    index, epoch = jnp.asarray(places, jnp.int32) + 40, jnp.asarray(np.broadcast_to(epochs, len(places)), jnp.int32)
    batch = batch_of(images[places], index=index, epoch=epoch)
    return np.array(compiled(*chain, **COLOURS)(batch, KEY).image)


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain[0])
def test_an_example_changes_the_same_way_in_any_batch(chain):
    whole = taken(chain, np.arange(13), 2)
    for places in ([8], [3], np.random.default_rng(1).permutation(13)):
        np.testing.assert_array_equal(taken(chain, places, 2), whole[places])
    # A batch across the end of an epoch: each example has its own.
    epochs = np.where(np.arange(13) % 2, 2, 3)
    crossing = taken(chain, np.arange(13), epochs)
    np.testing.assert_array_equal(crossing[1::2], whole[1::2])
    changed = (crossing[::2] != whole[::2]).any((1, 2, 3))
    assert changed.sum() >= 6


def test_keys_are_folded_in_by_epoch_and_index():
    batch = batch_of(IMAGES[:3], index=jnp.array([9, 4, 0], jnp.int32))
    for epoch, field in ((0, None), (5, jnp.int32(5)), (5, jnp.full(3, 5, jnp.int32))):
        keys = augment.example_keys(batch.replace(epoch=field), KEY)
        for index, key in zip((9, 4, 0), keys):
            expected = jax.random.fold_in(jax.random.fold_in(KEY, epoch), index)
            assert (jax.random.key_data(key) == jax.random.key_data(expected)).all()
    for place, key in enumerate(augment.example_keys(batch.replace(index=None, epoch=jnp.int32(5)), KEY)):
        assert (jax.random.key_data(key) == jax.random.key_data(jax.random.fold_in(KEY, place))).all()


def test_steps_of_a_chain_draw_apart_and_examples_too():
    batch = batch_of(np.stack([IMAGES[0]] * 200))
    shown = np.array(compiled("flip", "flip", "flip")(batch, KEY).image) == IMAGES[0]
    mirrored = ~shown.all((1, 2, 3))
    assert 70 < mirrored.sum() < 130


def test_pure_and_the_same_without_jit_and_under_vmap():
    change = augment.parse(["pad-crop:2", "cutout:4"])
    batch = batch_of(IMAGES[:5])
    before = np.array(batch.image)
    once = change(batch, KEY)
    np.testing.assert_array_equal(change(batch, KEY).image, once.image)
    np.testing.assert_array_equal(batch.image, before)
    np.testing.assert_array_equal(compiled("pad-crop:2", "cutout:4")(batch, KEY).image, once.image)
    many = jax.vmap(change, in_axes=(None, 0))(batch, jnp.stack([KEY, jax.random.key(8)]))
    np.testing.assert_array_equal(many.image[0], once.image)
    assert many.label.shape == (2, 5)
    assert not np.array_equal(many.image[1], once.image)


EVERY = [text for chain in CHAINS for text in chain if text != "flip:alternating"] + ["mixup:0.4", "cutmix:1.0"]


@pytest.mark.parametrize("text", EVERY)
def test_every_augmentation_keeps_the_type_and_promotes_nothing(text, strict_dtypes):
    for dtype in (jnp.bfloat16, jnp.float32):
        batch = batch_of(jnp.asarray(IMAGES[:4], dtype), mask=jnp.array([True, True, True, False]))
        done = jax.eval_shape(augment.parse([text], mean=tuple(MEAN), std=tuple(STD)), batch, KEY)
        size = (8, 8) if text.endswith(":8") else (9, 11)
        assert (done.image.shape, done.image.dtype) == ((4, *size, 3), dtype)
        assert (done.label.dtype, done.mask.dtype) == (jnp.int32, jnp.bool_)
        assert (
            (done.mix_weight is None) == (done.mixed_label is None) == (text[:3] not in ("mix", "cut") or "out" in text)
        )


def test_bfloat16_is_computed_in_float32():
    images = jnp.asarray(IMAGES[:6], jnp.bfloat16)
    full = compiled("random-resized-crop")(batch_of(images.astype(jnp.float32)), KEY).image
    half = compiled("random-resized-crop")(batch_of(images), KEY).image
    np.testing.assert_array_equal(half, full.astype(jnp.bfloat16))
