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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from cnnjax.errors import unknown
from cnnjax.pretrained import hashes
from cnnjax.pretrained.preprocessing import Preprocess, preprocess

_TORCH = "https://download.pytorch.org/models/"
_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/"
_KERAS_PLAIN = "https://storage.googleapis.com/keras-applications/"
_IMAGENET = "trained on ImageNet, whose own terms may bind you"
_BSD = f"BSD-3-Clause (torchvision); {_IMAGENET}"
_OXFORD = f"CC BY 4.0 (Visual Geometry Group, Oxford), through Keras; {_IMAGENET}"
_MIT = f"MIT (Kaiming He), through Keras; {_IMAGENET}"
_LIU = f"BSD-3-Clause (Zhuang Liu), through Keras; {_IMAGENET}"
_META = f"MIT (Meta Platforms), through Keras; {_IMAGENET}"
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
    name: str, file: str, digests: Sequence[str], licence: str, accuracy: tuple[float, float]
) -> tuple[Published, Published]:
    """Return the file of a Keras net and the one without its classifier."""
    address = f"{_KERAS}{file}_weights_tf_dim_ordering_tf_kernels"
    bare = f"{name}{'-' if ':' in name else ':'}notop"
    without = MappingProxyType({"include_top": False})
    return (
        Published(name, f"{address}.h5", "md5", digests[0], licence, accuracy),
        Published(bare, f"{address}_notop.h5", "md5", digests[1], licence, None, without),
    )


def _wider_and_mobile() -> list[Published]:
    joints = {name: "_" if "-" in mark else "-" for name, mark, *_ in hashes.TORCHVISION}
    return [
        _torch(name, f"{name.partition(':')[0]}{joints[name]}{mark}.pth", top1, top5)
        for name, mark, top1, top5 in hashes.TORCHVISION
    ]


def _pair(
    model: str, address: str, bare: str, digests: Sequence[str], licence: str, accuracy: tuple[float, float] | None
) -> tuple[Published, Published]:
    """Return a file of Keras and the one without its classifier, whose address ends in `bare`."""
    algorithm = {32: "md5", 64: "sha256"}[len(digests[0])]
    without = MappingProxyType({"include_top": False})
    return (
        Published(model, f"{address}.h5", algorithm, digests[0], licence, accuracy),
        Published(f"{model}:notop", f"{address}{bare}.h5", algorithm, digests[1], licence, None, without),
    )


def _keras_since_2016() -> list[Published]:
    found: list[Published] = []
    for depth, *digests, accuracy in hashes.KERAS_DENSENET:
        found += _keras(f"densenet{depth}_keras", f"densenet/densenet{depth}", digests, _LIU, accuracy)
    for size, *digests in hashes.KERAS_MOBILENET_V3:
        address = f"{_KERAS}mobilenet_v3/weights_mobilenet_v3_{size}_224_1.0_float"
        found += _pair(f"mobilenet_v3_{size}_keras", address, "_no_top_v2", digests, _APACHE, None)
    for n, (*digests, accuracy) in enumerate(hashes.KERAS_EFFICIENTNET):
        address = f"{_KERAS_PLAIN}efficientnetb{n}"
        found += _pair(f"efficientnet_b{n}_keras", address, "_notop", digests, _APACHE, accuracy)
    for size, *digests in hashes.KERAS_CONVNEXT:
        address = f"{_KERAS}convnext/convnext_{size}"
        found += _pair(f"convnext_{size}_keras", address, "_notop", digests, _META, None)
    return found


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
        *_keras_since_2016(),
        *_keras(
            "inception_v3",
            "inception_v3/inception_v3",
            ("9a0d58056eeedaa3f26cb7ebd46da564", "bcbd6486424b2319ff4ef7d526e38f63"),
            _APACHE,
            (77.9, 93.7),
        ),
    )
}
