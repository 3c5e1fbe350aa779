"""RandAugment's operations against torchvision's and Pillow's, and how they are drawn."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from cnnjax.data import augment
from cnnjax.data.augment import policies
from cnnjax.errors import UsageError
from tests.data.augmenting import MEAN, STD, batch_of, pixels, theirs
from tests.pretrained.torchvision_oracle import torchvision

KEY = jax.random.key(5)
SHAPE = (14, 19, 3)


@functools.cache
def ours(magnitude):
    return jax.jit(jax.vmap(functools.partial(policies.apply_operation, magnitude=magnitude)))


def applied_by_torchvision(image, name, magnitude, negative):
    torchvision()
    import torch
    from torchvision.transforms.v2 import InterpolationMode, RandAugment

    policy = RandAugment(magnitude=magnitude)
    values, signed = policy._AUGMENTATION_SPACE[name]
    found = values(31, *image.shape[:2])
    amount = 0.0 if found is None else float(found[magnitude])
    done = policy._apply_image_or_video_transform(
        torch.tensor(image).permute(2, 0, 1),
        name,
        -amount if negative and signed else amount,
        interpolation=InterpolationMode.NEAREST,
        fill={torch.Tensor: None},
    )
    return done.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("magnitude", [9, 30])
def test_every_operation_is_torchvisions(magnitude):
    """Equal to 1e-5; of moved images a few pixels, as near to one neighbour as to the other, may be the other."""
    images = pixels(4, 28, *SHAPE)
    numbers, negative = np.arange(28) % 14, np.arange(28) >= 14
    done = np.array(ours(magnitude)(images, numbers, negative))
    for image, number, minus, after in zip(images, numbers, negative, done):
        name = policies.OPERATIONS[number]
        expected = applied_by_torchvision(image, name, magnitude, minus)
        off = (np.abs(after - expected) > 1e-5).any(-1)
        allowed = 0.01 if name in ("ShearX", "ShearY", "Rotate") else 0
        assert off.mean() <= allowed, (name, magnitude, off.sum())
        if name not in ("Identity", "AutoContrast", "Equalize", "Color"):
            assert not np.allclose(after, image, atol=1e-3), name


def test_the_list_is_torchvisions():
    torchvision()
    from torchvision.transforms.v2 import RandAugment

    assert tuple(RandAugment._AUGMENTATION_SPACE) == policies.OPERATIONS


@pytest.mark.parametrize("channels", [1, 3])
def test_tones_are_pillows_on_8_bits(channels):
    """Pillow computes in whole tones: within one of them, and of half a tone in the table it makes of each."""
    mode = "L" if channels == 1 else "RGB"
    for number, image in enumerate(pixels(channels, 4, 30, 40, channels)):
        eight = np.round(image * 255).astype(np.uint8)
        picture = Image.fromarray(eight.squeeze(-1) if channels == 1 else eight, mode=None)
        assert picture.mode == mode
        for name, expected in (
            ("equalize", ImageOps.equalize(picture)),
            ("autocontrast", ImageOps.autocontrast(picture)),
            ("solarize", ImageOps.solarize(picture, 179)),
        ):
            arguments = (0.7,) if name == "solarize" else ()
            after = np.array(getattr(policies, name)(jnp.asarray(image), *arguments)) * 255
            tone = 0 if name == "equalize" else 1
            assert np.abs(after - np.array(expected).reshape(image.shape)).max() <= tone + 1e-3, (name, number)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_posterized_images_have_pillows_steps(bits):
    image = (np.arange(256, dtype=np.float32) / 255).reshape(16, 16, 1)
    after = np.array(policies.posterize(jnp.asarray(image), bits)) * 2**bits
    masked = np.arange(256) >> (8 - bits)
    np.testing.assert_allclose(after, after.round(), atol=1e-4)
    # floor(v / 255 * 2**bits) and v >> (8 - bits) are at most one step apart: v / 255 is a bit more than v / 256.
    assert set((after.round().ravel() - masked).astype(int)) <= {0, 1}
    np.testing.assert_allclose(after / 2**bits, theirs("posterize", image, bits), atol=1e-6)


def test_small_and_flat_images_stay_as_torchvision_leaves_them():
    for shape in ((2, 5, 3), (6, 5, 1)):
        flat = np.full(shape, 0.4, np.float32)
        for name in ("equalize", "autocontrast"):
            np.testing.assert_allclose(getattr(policies, name)(jnp.asarray(flat)), theirs(name, flat), atol=1e-6)
        small = pixels(0, 2, *shape)[0]
        np.testing.assert_allclose(
            policies.adjust_sharpness(jnp.asarray(small), 0.1), theirs("adjust_sharpness", small, 0.1), atol=1e-6
        )


def test_all_operations_are_drawn_equally_often_with_both_signs():
    image = pixels(9, 3, *SHAPE)[2]
    count, magnitude = 1400, 13
    numbers = np.arange(28)
    outcomes = np.array(ours(magnitude)(np.stack([image] * 28), numbers % 14, numbers >= 14))
    change = functools.partial(augment.randaugment, num_ops=1, magnitude=magnitude, mean=MEAN, std=STD)
    done = jax.jit(change)(batch_of((np.stack([image] * count) - MEAN) / STD), KEY).image
    distances = np.abs((np.array(done) * STD + MEAN)[:, None] - outcomes[None]).max((2, 3, 4))
    near = distances.argmin(1)
    assert distances.min(1).max() < 1e-5
    seen = np.bincount(near % 14, minlength=14)
    assert ((seen - count / 14) ** 2 / (count / 14)).sum() < 13 + 5 * math.sqrt(26) + 5
    for number in range(1, 10):
        plus = (near == number).sum()
        assert 0.3 < plus / seen[number] < 0.7, policies.OPERATIONS[number]


def test_no_operation_and_numbers_out_of_range():
    images = pixels(1, 3, *SHAPE)
    np.testing.assert_array_equal(augment.randaugment(batch_of(images), KEY, num_ops=0).image, images)
    with pytest.raises(UsageError, match="magnitude of 0 to 30, got 2 and 31"):
        augment.randaugment(batch_of(images), KEY, magnitude=31)
