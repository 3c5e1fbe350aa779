"""The nets and images of JAX's peers; of kind `flax` with Flax's own convolution, pools and batch norm."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cnnjax import layers, ops, shapes


def pair(size):
    return (size, size) if isinstance(size, int) else tuple(size)


def flax_pool(pool):
    def call(x, window, *, strides=None, padding="VALID", ceil_mode=False, dilation=1, **options):
        assert dilation == 1, "linen's pools have no dilation"
        window = pair(window)
        strides = window if strides is None else pair(strides)
        pads = ((padding, padding),) * 2 if isinstance(padding, int) else padding
        if ceil_mode:
            pads = cnnjax_pool_padding(x.shape[1:3], window, strides, padding)
        return pool(x, window, strides, pads, **options)

    return call


def cnnjax_pool_padding(sizes, window, strides, padding):
    sides = (padding, padding) if isinstance(padding, str | int) else padding
    return tuple(shapes.window_padding(n, k, s, p, ceil_mode=True) for n, k, s, p in zip(sizes, window, strides, sides))


def flax_conv(features, kernel_size, **options):
    """Make Flax's convolution of two axes; an integer for its kernel would be one axis, and another net."""
    return nn.Conv(features, pair(kernel_size), **options)


def only_flax() -> None:
    """Put Flax's own functions where the nets look for cnnjax's; before the nets are imported."""
    ops.max_pool = flax_pool(nn.max_pool)
    ops.avg_pool = flax_pool(nn.avg_pool)
    ops.global_avg_pool = lambda x: jnp.mean(x, axis=(1, 2))
    layers.Conv = layers.conv.Conv = flax_conv
    layers.BatchNorm = layers.norm.BatchNorm = nn.BatchNorm


def net_and_images(kind: str, name: str, batch_size: int, side: int):
    """Return the net of a kind and random images for it."""
    if kind == "flax":
        only_flax()
    from cnnjax.models import build

    options = {"aux_logits": False} if name.startswith("googlenet") else {}
    shape = (batch_size, side, side, 1 if name == "lenet5" else 3)
    images = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    return build(name, num_classes=10, **options), images
