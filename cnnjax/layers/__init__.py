"""Flax linen layers made of cnnjax's ops, for the models here and for anyone's."""

from cnnjax.layers.conv import Conv

__all__ = ["Conv"]
