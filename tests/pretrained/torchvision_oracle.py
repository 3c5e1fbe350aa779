"""torchvision without its compiled operators, which its PyPI wheel links against another build of torch."""

import pytest


def torchvision():
    """Return torchvision's module, or skip the test where it or torch is not installed."""
    torch = pytest.importorskip("torch")
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
    return pytest.importorskip("torchvision")


_KEPT: list = []  # a library's operators go when it does
