"""Convolution algorithms that are faster on a CPU than XLA's own: the only room that knows about CPU speed."""

from cnnjax.ops.cpu.problem import ROLES, ConvSpec
from cnnjax.ops.cpu.rule import choose

__all__ = ["ROLES", "ConvSpec", "choose"]
