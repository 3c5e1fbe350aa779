"""Published weights in, checked to the last tensor, and weights out; no file's code is ever run."""

from cnnjax.pretrained.tensors import SourceFile, SourceTensor, WeightsError, open_file

__all__ = ["SourceFile", "SourceTensor", "WeightsError", "open_file"]
