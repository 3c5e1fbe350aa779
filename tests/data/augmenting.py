"""What the tests of augmentations share: batches of random images, and torchvision's functions on them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.batch import Batch
from cnnjax.data import augment
from tests.pretrained.torchvision_oracle import torchvision

MEAN = np.array([0.48, 0.45, 0.41], np.float32)
STD = np.array([0.22, 0.25, 0.28], np.float32)


def pixels(seed, *shape):
    """Return random images in [0, 1] of 256 tones, float32: smooth ones, with all tones, some of them grey or flat."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, shape).astype(np.float32)
    images[::3] = images[::3] // 4 + 60
    images[1, ...] = images[1, ..., :1]
    return images / np.float32(255)


def batch_of(images, **fields):
    return Batch(image=jnp.asarray(images), label=jnp.arange(len(images), dtype=jnp.int32), **fields)


@functools.cache
def compiled(*texts, mean=0.0, std=1.0):
    """Return the named augmentations, compiled, as in a training step."""
    return jax.jit(augment.parse(texts, mean=mean, std=std))


def theirs(name, image, *arguments, **options):
    """Return what torchvision's function of a name makes of one image `[H, W, C]`."""
    torchvision()
    import torch
    from torchvision.transforms.v2 import functional

    done = getattr(functional, name)(torch.tensor(image).permute(2, 0, 1), *arguments, **options)
    return done.permute(1, 2, 0).numpy()
