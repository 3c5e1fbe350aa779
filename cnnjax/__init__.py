"""Convolutional networks in JAX and Flax linen: modules, models, training, data."""

__version__ = "0.1.0"
