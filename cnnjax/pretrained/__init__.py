"""Published weights in, checked to the last tensor, and weights out; no file's code is ever run."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnjax.pretrained.catalogue import Published, imagenet_classes, published, published_names
    from cnnjax.pretrained.fits import Fit, identify
    from cnnjax.pretrained.loading import load
    from cnnjax.pretrained.naming import Naming, Rule
    from cnnjax.pretrained.preprocessing import Preprocess, preprocess
    from cnnjax.pretrained.report import Report
    from cnnjax.pretrained.saving import save
    from cnnjax.pretrained.tensors import SourceFile, SourceTensor, WeightsError, open_file, sha256_of

__all__ = [
    "Fit",
    "Naming",
    "Preprocess",
    "Published",
    "Report",
    "Rule",
    "SourceFile",
    "SourceTensor",
    "WeightsError",
    "identify",
    "imagenet_classes",
    "load",
    "open_file",
    "preprocess",
    "published",
    "published_names",
    "save",
    "sha256_of",
]
_HOMES = {
    "catalogue": ("Published", "imagenet_classes", "published", "published_names"),
    "fits": ("Fit", "identify"),
    "loading": ("load",),
    "naming": ("Naming", "Rule"),
    "preprocessing": ("Preprocess", "preprocess"),
    "report": ("Report",),
    "saving": ("save",),
    "tensors": ("SourceFile", "SourceTensor", "WeightsError", "open_file", "sha256_of"),
}


def __getattr__(name: str) -> Any:
    """Load what is public when it is first named: the child that reads a file starts without JAX."""
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
