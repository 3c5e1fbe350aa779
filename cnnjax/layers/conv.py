"""Linen's convolution on cnnjax's convolution."""

import functools

from flax import linen as nn

from cnnjax import ops

# Flax's own layer with its own parameters, initialisers and arguments; only the arithmetic on a CPU is another.
Conv = functools.partial(nn.Conv, conv_general_dilated=ops.conv_general_dilated)
