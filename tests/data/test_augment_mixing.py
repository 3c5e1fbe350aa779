"""Mixup and cutmix: what is mixed, how much of it, and with whom."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.data import augment
from cnnjax.errors import UsageError
from tests.data.augmenting import batch_of, compiled

KEY = jax.random.key(4)
SHAPE = (11, 7, 2)


def flat_images(count):
    """Return images of one value each, their own number, so that a mixture shows what is in it."""
    return np.broadcast_to(np.arange(count, dtype=np.float32)[:, None, None, None], (count, *SHAPE)).copy()


def mixed(text, count=64, key=KEY, **fields):
    return compiled(text)(batch_of(flat_images(count), **fields), key)


def test_mixup_is_the_weighted_mean_of_two_images():
    images = np.random.default_rng(0).normal(size=(64, *SHAPE)).astype(np.float32)
    done = compiled("mixup:1.0")(batch_of(images), KEY)
    share = np.array(done.mix_weight, np.float64)[:, None, None, None]
    np.testing.assert_allclose(done.image, share * images + (1 - share) * images[done.mixed_label], atol=1e-6)
    np.testing.assert_array_equal(done.label, np.arange(64))


def test_cutmix_takes_a_rectangle_and_says_how_much_is_left():
    done = mixed("cutmix:1.0")
    shares = np.array(done.mix_weight)
    for number, (image, other, share) in enumerate(zip(np.array(done.image), np.array(done.mixed_label), shares)):
        own = image[..., 0] == number
        if other == number:
            continue
        assert (image[~own] == other).all()
        assert (image[..., 0] == image[..., 1]).all()
        assert share == np.float32(own.mean())
        cut = np.argwhere(~own)
        if len(cut):
            top, left = cut.min(0)
            bottom, right = cut.max(0) + 1
            assert len(cut) == (bottom - top) * (right - left)
    assert len(np.unique(shares)) > 12


@pytest.mark.parametrize(("text", "alpha"), [("mixup:0.2", 0.2), ("mixup:1.0", 1.0), ("mixup:4.0", 4.0)])
def test_shares_of_mixup_are_of_the_beta_distribution(text, alpha):
    shares = np.array(mixed(text, 4096).mix_weight, np.float64)
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(shares.mean() - 0.5) < 5 * np.sqrt(variance / 4096)
    assert abs(shares.var() / variance - 1) < 0.12
    rng = np.random.default_rng(1)
    theirs = np.sort(rng.beta(alpha, alpha, 4096))
    assert np.abs(np.searchsorted(theirs, np.sort(shares)) - np.arange(4096)).max() / 4096 < 2.2 * np.sqrt(2 / 4096)


def test_shares_of_cutmix_are_those_of_the_papers_loop():
    rng, (height, width, _) = np.random.default_rng(2), SHAPE
    shares = []
    for _ in range(4096):
        part = np.sqrt(1 - rng.beta(1.0, 1.0))
        cut_w, cut_h = int(width * part), int(height * part)
        x, y = rng.integers(width), rng.integers(height)
        x1, x2 = np.clip([x - cut_w // 2, x + cut_w // 2], 0, width)
        y1, y2 = np.clip([y - cut_h // 2, y + cut_h // 2], 0, height)
        shares.append(1 - (x2 - x1) * (y2 - y1) / (height * width))
    ours, theirs = np.sort(np.array(mixed("cutmix:1.0", 4096).mix_weight)), np.sort(shares)
    grid = np.unique(np.concatenate([ours, theirs])) + 1e-6
    gap = np.abs(np.searchsorted(ours, grid) - np.searchsorted(theirs, grid)).max() / 4096
    assert gap < 2.2 * np.sqrt(2 / 4096)


@pytest.mark.parametrize("text", ["mixup:1.0", "cutmix:1.0"])
def test_padding_is_never_mixed_in_and_stays_as_it_is(text):
    mask = np.arange(64) % 3 != 1
    images = flat_images(64)
    images[~mask] = np.nan
    partners = []
    for seed in range(20):
        done = compiled(text)(batch_of(images, mask=jnp.asarray(mask)), jax.random.key(seed))
        other = np.array(done.mixed_label)
        assert np.isfinite(np.array(done.image)[mask]).all()
        assert mask[other[mask]].all()
        assert sorted(other[mask]) == list(np.flatnonzero(mask))
        np.testing.assert_array_equal(np.array(done.image)[~mask], images[~mask])
        np.testing.assert_array_equal(np.array(done.mix_weight)[~mask], 1)
        np.testing.assert_array_equal(done.mask, mask)
        partners.append(other)
    # Every real example is as likely a partner: 42 of them, 20 draws each.
    assert len(np.unique(np.stack(partners)[:, 0])) > 12


def test_partners_of_known_examples_differ_from_batch_to_batch():
    index = jnp.arange(64, dtype=jnp.int32)
    others = [
        np.array(mixed("mixup:1.0", index=index + first, epoch=jnp.int32(epoch)).mixed_label)
        for first, epoch in ((0, 0), (64, 0), (0, 1), (0, 0))
    ]
    np.testing.assert_array_equal(others[0], others[3])
    assert not np.array_equal(others[0], others[1])
    assert not np.array_equal(others[0], others[2])


def test_of_both_one_is_drawn_for_each_batch():
    change, images = jax.jit(augment.parse(["mixup:1.0", "cutmix:1.0"])), flat_images(16)
    cut = []
    for seed in range(60):
        done = change(batch_of(images), jax.random.key(seed))
        whole = np.isin(np.array(done.image), np.arange(16)).all((1, 2, 3))
        assert whole.all() or whole.mean() < 0.5
        cut.append(bool(whole.all()))
    assert 15 < sum(cut) < 45


def test_mixing_comes_last_and_once():
    first = augment.parse(["mixup:0.3", "cutout:3"])
    last = augment.parse(["cutout:3", "mixup:0.3"])
    batch = batch_of(flat_images(8))
    np.testing.assert_array_equal(jax.jit(first)(batch, KEY).image, jax.jit(last)(batch, KEY).image)
    with pytest.raises(UsageError, match=r"'mixup:0\.5': expected mixup once, got it twice"):
        augment.parse(["mixup:0.2", "mixup:0.5"])
    for change in (augment.mixup, augment.cutmix):
        once = batch.replace(mix_weight=jnp.ones(8), mixed_label=batch.label)
        with pytest.raises(UsageError, match="not mixed yet, got one that is; mix once"):
            change(once, KEY, alpha=1.0)
        with pytest.raises(UsageError, match="more than 0"):
            change(batch, KEY, alpha=0.0)


def test_one_of_needs_nothing_but_functions():
    choices = [functools.partial(augment.pad_crop, pixels=1), augment.flip]
    done = jax.jit(functools.partial(augment.one_of, choices=choices))(batch_of(flat_images(4)), KEY)
    assert done.image.shape == (4, *SHAPE)
