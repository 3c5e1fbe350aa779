"""Published weights in, checked to the last tensor, and weights out; no file's code is ever run."""

from cnnjax.pretrained.catalogue import Published, imagenet_classes, published, published_names
from cnnjax.pretrained.identify import Fit, identify
from cnnjax.pretrained.load import load
from cnnjax.pretrained.naming import Naming, Rule
from cnnjax.pretrained.preprocessing import Preprocess, preprocess
from cnnjax.pretrained.report import Report
from cnnjax.pretrained.save import save
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
