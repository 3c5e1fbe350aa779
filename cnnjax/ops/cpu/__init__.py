"""Convolution algorithms that are faster on a CPU than XLA's own: the only room that knows about CPU speed."""

from cnnjax.ops.cpu.rule import choose
from cnnjax.ops.cpu.spec import ROLES, ConvSpec

__all__ = ["ROLES", "ConvSpec", "choose"]
