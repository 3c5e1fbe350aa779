"""The official files: where they are, how they are known to be whole, what they take and how good they are.

Only files whose hash is published are here: torchvision puts the first eight digits of the sha256 into a file's name,
Keras gives the md5 in its source. Both show damage. Against forgery, eight digits are 32 bits, met by trying some four
thousand million files. For a whole md5 nobody is known to have made another file to a given one, though an author can
make two that share it. Neither proves what a whole sha256 would: `load(sha256=...)` takes one.

References:
  torchvision 0.28 (`torchvision.models.*_Weights`): addresses, hashes, accuracies.
  Keras 3.15 (`keras.applications`): addresses and hashes; https://keras.io/api/applications: accuracies.
"""

import functools
import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from cnnjax.errors import unknown
from cnnjax.pretrained.preprocessing import Preprocess, preprocess

_TORCH = "https://download.pytorch.org/models/"
_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/"
_IMAGENET = "trained on ImageNet, whose own terms may bind you"
_BSD = f"BSD-3-Clause (torchvision); {_IMAGENET}"
_OXFORD = f"CC BY 4.0 (Visual Geometry Group, Oxford), through Keras; {_IMAGENET}"
_MIT = f"MIT (Kaiming He), through Keras; {_IMAGENET}"
_APACHE = f"Apache-2.0 (TensorFlow), through Keras; {_IMAGENET}"


@dataclass(frozen=True)
class Published:
    """One official file.

    Args:
      name: What it is called here, the same as in `preprocess`, or a variant of it.
      address: Where it is.
      algorithm: `sha256` or `md5`.
      digest: What is published of the hash, in hexadecimal: all of it or its beginning.
      licence: Under which terms.
      accuracy: Published top-1 and top-5 accuracy on ImageNet in percent, single crop; None if it was not published.
      options: What the model must be built with for the file to fit.
    """

    name: str
    address: str
    algorithm: str
    digest: str
    licence: str
    accuracy: tuple[float, float] | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def model(self) -> str:
        """The model's name for `cnnjax.models.build`."""
        return self.name.partition(":")[0]

    @property
    def file_name(self) -> str:
        """The file's name at its address."""
        return self.address.rpartition("/")[2]

    @property
    def preprocess(self) -> Preprocess:
        """How images are prepared."""
        return preprocess(self.name.removesuffix("-notop").removesuffix(":notop"))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in the order of the logits."""
        return imagenet_classes()


def published(name: str) -> Published:
    """Return an official file.

    Args:
      name: One of `published_names()`: a model, or a model and a variant, such as `resnet50:v2`.
    Raises:
      UsageError: If there is none of that name; the nearest is in the message.
    Example:
      >>> published("resnet50").file_name
      'resnet50-0676ba61.pth'
    """
    if name not in _FILES:
        raise unknown("published weights", name, _FILES)
    return _FILES[name]


def published_names() -> list[str]:
    """Return the names of all official files, sorted."""
    return sorted(_FILES)


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """Return the names of ImageNet's 1000 classes in the order of the nets' outputs.

    Example:
      >>> imagenet_classes()[0], len(imagenet_classes())
      ('tench', 1000)
    """
    text = (importlib.resources.files("cnnjax.pretrained") / "imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))


def _torch(name: str, file: str, top1: float | None = None, top5: float | None = None, **options: Any) -> Published:
    digest = file.removesuffix(".pth").rpartition("-")[2]
    accuracy = None if top1 is None or top5 is None else (top1, top5)
    return Published(name, _TORCH + file, "sha256", digest, _BSD, accuracy, MappingProxyType(options))


def _keras(
    name: str, file: str, digests: tuple[str, str], licence: str, accuracy: tuple[float, float]
) -> tuple[Published, Published]:
    """Return the file of a Keras net and the one without its classifier."""
    address = f"{_KERAS}{file}_weights_tf_dim_ordering_tf_kernels"
    bare = f"{name}{'-' if ':' in name else ':'}notop"
    without = MappingProxyType({"include_top": False})
    return (
        Published(name, f"{address}.h5", "md5", digests[0], licence, accuracy),
        Published(bare, f"{address}_notop.h5", "md5", digests[1], licence, None, without),
    )


# torchvision's files since 2016: the hash in the file's name, and the accuracies.
_SINCE_2016 = (
    ("resnext50_32x4d", "7cdf4587", 77.618, 93.698),
    ("resnext50_32x4d:v2", "1a0047aa", 81.198, 95.340),
    ("resnext101_32x8d", "8ba56ff5", 79.312, 94.526),
    ("resnext101_32x8d:v2", "110c445d", 82.834, 96.228),
    ("wide_resnet50_2", "95faca4d", 78.468, 94.086),
    ("wide_resnet50_2:v2", "9ba9bcbe", 81.602, 95.758),
    ("wide_resnet101_2", "32ee1156", 78.848, 94.284),
    ("wide_resnet101_2:v2", "d733dc28", 82.510, 96.020),
    ("densenet121", "a639ec97", 74.434, 91.972),
    ("densenet169", "b2777c0a", 75.600, 92.806),
    ("densenet201", "c1103571", 76.896, 93.370),
    ("mobilenet_v2", "b0353104", 71.878, 90.286),
    ("mobilenet_v2:v2", "7ebf99e0", 72.154, 90.822),
    ("mobilenet_v3_small", "047dcff4", 67.668, 87.402),
    ("mobilenet_v3_large", "8738ca79", 74.042, 91.340),
    ("mobilenet_v3_large:v2", "5c1a4163", 75.274, 92.566),
    ("efficientnet_b0", "rwightman-7f5810bc", 77.692, 93.532),
    ("efficientnet_b1", "rwightman-bac287d4", 78.642, 94.186),
    ("efficientnet_b1:v2", "c27df63c", 79.838, 94.934),
    ("efficientnet_b2", "rwightman-c35c1473", 80.608, 95.310),
    ("efficientnet_b3", "rwightman-b3899882", 82.008, 96.054),
    ("efficientnet_b4", "rwightman-23ab8bcd", 83.384, 96.594),
    ("efficientnet_b5", "lukemelas-1a07897c", 83.444, 96.628),
    ("efficientnet_b6", "lukemelas-24a108a5", 84.008, 96.916),
    ("efficientnet_b7", "lukemelas-c5b4e57e", 84.122, 96.908),
    ("convnext_tiny", "983f1562", 82.520, 96.146),
    ("convnext_small", "0c510722", 83.616, 96.650),
    ("convnext_base", "6075fbad", 84.062, 96.870),
    ("convnext_large", "ea097f82", 84.414, 96.976),
)


def _wider_and_mobile() -> list[Published]:
    joints = {name: "_" if "-" in mark else "-" for name, mark, *_ in _SINCE_2016}
    return [
        _torch(name, f"{name.partition(':')[0]}{joints[name]}{mark}.pth", top1, top5)
        for name, mark, top1, top5 in _SINCE_2016
    ]


_FILES: dict[str, Published] = {
    file.name: file
    for file in (
        _torch("alexnet", "alexnet-owt-7be5be79.pth", 56.522, 79.066),
        _torch("vgg11", "vgg11-8a719046.pth", 69.020, 88.628),
        _torch("vgg11_bn", "vgg11_bn-6002323d.pth", 70.370, 89.810),
        _torch("vgg13", "vgg13-19584684.pth", 69.928, 89.246),
        _torch("vgg13_bn", "vgg13_bn-abd245e5.pth", 71.586, 90.374),
        _torch("vgg16", "vgg16-397923af.pth", 71.592, 90.382),
        _torch("vgg16:features", "vgg16_features-amdegroot-88682ab5.pth", include_top=False),
        _torch("vgg16_bn", "vgg16_bn-6c64b313.pth", 73.360, 91.516),
        _torch("vgg19", "vgg19-dcbb9e9d.pth", 72.376, 90.876),
        _torch("vgg19_bn", "vgg19_bn-c79401a0.pth", 74.218, 91.842),
        _torch("googlenet_torchvision", "googlenet-1378be20.pth", 69.778, 89.530, aux_logits=True),
        _torch("inception_v3_torchvision", "inception_v3_google-0cc3c7bd.pth", 77.294, 93.450, aux_logits=True),
        _torch("resnet18", "resnet18-f37072fd.pth", 69.758, 89.078),
        _torch("resnet34", "resnet34-b627a593.pth", 73.314, 91.420),
        _torch("resnet50", "resnet50-0676ba61.pth", 76.130, 92.862),
        _torch("resnet50:v2", "resnet50-11ad3fa6.pth", 80.858, 95.434),
        _torch("resnet101", "resnet101-63fe2227.pth", 77.374, 93.546),
        _torch("resnet101:v2", "resnet101-cd907fc2.pth", 81.886, 95.780),
        _torch("resnet152", "resnet152-394f9c45.pth", 78.312, 94.046),
        _torch("resnet152:v2", "resnet152-f82ba261.pth", 82.284, 96.002),
        *_wider_and_mobile(),
        *_keras(
            "vgg16:keras",
            "vgg16/vgg16",
            ("64373286793e3c8b2b4e3219cbf3544b", "6d6bbae143d832006294945121d1f1fc"),
            _OXFORD,
            (71.3, 90.1),
        ),
        *_keras(
            "vgg19:keras",
            "vgg19/vgg19",
            ("cbe5617147190e668d6c5d5026f83318", "253f8cb515780f3b799900260a226db6"),
            _OXFORD,
            (71.3, 90.0),
        ),
        *_keras(
            "resnet50_v1",
            "resnet/resnet50",
            ("2cb95161c43110f7111970584f804107", "4d473c1dd8becc155b73f8504c6f6626"),
            _MIT,
            (74.9, 92.1),
        ),
        *_keras(
            "resnet101_v1",
            "resnet/resnet101",
            ("f1aeb4b969a6efcfb50fad2f0c20cfc5", "88cf7a10940856eca736dc7b7e228a21"),
            _MIT,
            (76.4, 92.8),
        ),
        *_keras(
            "resnet152_v1",
            "resnet/resnet152",
            ("100835be76be38e30d865e96f2aaae62", "ee4c566cf9a93f14d82f913c2dc6dd0c"),
            _MIT,
            (76.6, 93.1),
        ),
        *_keras(
            "inception_v3",
            "inception_v3/inception_v3",
            ("9a0d58056eeedaa3f26cb7ebd46da564", "bcbd6486424b2319ff4ef7d526e38f63"),
            _APACHE,
            (77.9, 93.7),
        ),
    )
}
