"""From photographs as they are to what a published net was trained on: sizes and colours as data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.errors import UsageError, unknown
from cnnjax.pretrained.resizing import resize_and_crop

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# ITU-R BT.601, as Pillow makes colours grey.
_LUMA = np.array([[0.299], [0.587], [0.114]], np.float32)


@dataclass(frozen=True)
class Preprocess:
    """Resize, cut out the centre, order the channels, then `(pixel * scale - mean) / std`.

    Equal to what torchvision's presets make of tensors, where both fuse products and sums (compiled, on today's CPUs);
    where they are given Pillow's images, Pillow resizes in whole numbers, and some pixels differ by one level of 255.

    A run's own images are not cut so: they are read in the shape that its dataset stores, and resized as a whole.

    Args:
      resize: What the shorter side becomes; the longer one in proportion, rounded down. None with `stored`.
      crop: Side of the square cut out of the middle; with `stored`, `(H, W)` that the whole is resized to.
      interpolation: `bilinear` or `bicubic`; resized pixels are rounded to whole numbers, as photographs in 8 bits are.
      antialias: Whether a pixel of a smaller image averages all that it stands for.
      channels: Their order, `RGB` or `BGR`; or `grey`, the one channel of nets such as LeNet-5.
      scale: What pixels 0 to 255 are multiplied by first.
      mean: Per channel, in the order of `channels`.
      std: Per channel, in the order of `channels`.
      stored: `(H, W, C)` of a dataset's images, which an image is cut to when it is read; None for its own size.
      pixel_range: What black and white are stored as in pixels deeper than 8 bits; None for what the file says.
    Example:
      >>> preprocess("resnet50").resize, preprocess("resnet50_v1").channels
      (256, 'BGR')
    """

    resize: int | None = 256
    crop: int | tuple[int, int] = 224
    interpolation: str = "bilinear"
    antialias: bool = True
    channels: str = "RGB"
    scale: float = 1 / 255
    mean: tuple[float, ...] = _IMAGENET_MEAN
    std: tuple[float, ...] = _IMAGENET_STD
    stored: tuple[int, int, int] | None = None
    pixel_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.interpolation not in ("bilinear", "bicubic") or self.channels not in ("RGB", "BGR", "grey"):
            raise ValueError(
                "Preprocess: expected interpolation bilinear or bicubic, and channels RGB, BGR or grey, got "
                f"{self.interpolation} and {self.channels}."
            )
        if not len(self.mean) == len(self.std) == self.depth:
            raise ValueError(
                f"Preprocess: expected a mean and a std for each channel of {self.channels}, got {self.mean} and "
                f"{self.std}."
            )

    @property
    def depth(self) -> int:
        """How many channels there are: 1 for grey, else 3."""
        return 1 if self.channels == "grey" else 3

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what comes out."""
        return self.crop if isinstance(self.crop, tuple) else (self.crop, self.crop)

    def read_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape `(H, W, C)` that an image of this size is to be read in."""
        return self.stored or (height, width, self.depth)

    def steps(self, height: int, width: int) -> str:
        """Return what is done to an image of this size once it is read, in words."""
        if self.stored:
            return ""
        return f" → {'×'.join(map(str, self.resized(height, width)[::-1]))}, centre {self.crop}×{self.crop}"

    def __call__(self, images: jax.Array) -> jax.Array:
        """Return what the net takes; may be called under `jax.jit`, which compiles once for each size of images.

        Args:
          images: RGB, uint8, `[N, H, W, 3]`; grey, `[N, H, W, 1]`; `[N, *stored]`.
        Returns:
          float32, `[N, *size, C]`.
        Raises:
          ValueError: If the shape is another.
          TypeError: If they are not uint8.
        """
        _check(images, self.read_shape(0, 0)[2])
        return self.normalize(self.resize_and_crop(images))

    def resize_and_crop(self, images: jax.Array) -> jax.Array:
        """Return the middle square of the resized images, in whole numbers 0 to 255, float32; with `stored` the whole.

        Args:
          images: `[N, H, W, C]`.
        """
        height, width = images.shape[1:3]
        if self.stored:
            x, shape = images.astype(jnp.float32), (images.shape[0], *self.size, images.shape[3])
            return x if (height, width) == self.size else jax.image.resize(x, shape, "bilinear", antialias=True)
        cubic = self.interpolation == "bicubic"
        return resize_and_crop(images, self.resized(height, width), self.size, self.antialias, cubic)

    def normalize(self, images: jax.Array) -> jax.Array:
        """Return pixels 0 to 255 in the net's order and range; grey ones become colours, or colours grey, if need be.

        Args:
          images: RGB, `[N, H, W, 3]`, or grey, `[N, H, W, 1]`, of any type; computed in float32.
        """
        x = images.astype(jnp.float32)
        if x.shape[-1] != self.depth:
            grey = self.depth == 1
            x = jnp.einsum("...c,cg->...g", x, _LUMA, precision="highest") if grey else jnp.repeat(x, 3, axis=-1)
        if self.channels == "BGR":
            x = x[..., ::-1]
        shape = (1,) * (x.ndim - 1) + (self.depth,)
        mean, std = (jnp.asarray(values, jnp.float32).reshape(shape) for values in (self.mean, self.std))
        return (x * self.scale - mean) / std

    def renormalize(self, images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
        """Return what the net takes, of images that a dataset has normalised already; their size stays.

        Args:
          images: `(pixel / 255 - mean) / std`, RGB or grey, `[N, H, W, C]`.
          mean: The dataset's, per channel.
          std: Likewise.
        """
        if self.is_plain(mean, std):
            return images
        means, stds = (np.asarray(values, np.float32).reshape(1, 1, 1, -1) for values in (mean, std))
        return self.normalize((images * stds + means) * 255)

    def is_plain(self, mean: Sequence[float], std: Sequence[float]) -> bool:
        """Return whether colours become `(pixel / 255 - mean) / std` of these numbers."""
        plain = plain_preprocess(mean, std, 1)
        return all(getattr(self, name) == getattr(plain, name) for name in ("channels", "scale", "mean", "std"))

    def of_size(self, input_shape: Sequence[int] | None) -> "Preprocess":
        """Return the same colours, and sizes too unless a net was made for another size: then squares of that."""
        if not input_shape or input_shape[0] != input_shape[1] or input_shape[0] == self.crop:
            return self
        return replace(self, resize=input_shape[0], crop=input_shape[0])

    def of_stored(self, stored: tuple[int, int, int], size: tuple[int, int]) -> "Preprocess":
        """Return the same colours of a run's images: of the shape that its dataset stores, resized to `size`."""
        return replace(self, resize=None, crop=size, stored=stored)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return `(H, W)` after resizing.

        Args:
          height: Before.
          width: Before.
        Example:
          >>> preprocess("resnet50").resized(480, 640)
          (256, 341)
        """
        shorter = self.resize or min(self.size)
        longer = int(shorter * max(height, width) / min(height, width))
        return (shorter, longer) if height <= width else (longer, shorter)


def plain_preprocess(mean: Sequence[float], std: Sequence[float], side: int) -> Preprocess:
    """Return `(pixel / 255 - mean) / std` of images whose shorter side becomes `side` before the centre is cut out."""
    channels = "grey" if len(mean) == 1 else "RGB"
    return Preprocess(resize=side, crop=side, channels=channels, mean=tuple(mean), std=tuple(std))


def from_json(record: Mapping[str, Any]) -> Preprocess:
    """Return the preprocessing whose fields were written as JSON, which knows lists only."""
    fields: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in record.items()}
    return Preprocess(**fields)


def preprocess(name: str) -> Preprocess:
    """Return how images are prepared for a published net.

    A name is a model's, which stands for the first weights that its own publisher gave it: torchvision's
    `IMAGENET1K_V1` for `alexnet`, `vgg16`, `resnet50`, `inception_v3_torchvision`, ..., and Keras's for
    `resnet50_v1`, `inception_v3`, ... Others are behind a colon: `vgg16:keras`, `vgg16:features` (torchvision's
    `IMAGENET1K_FEATURES`), `resnet50:v2` (torchvision's `IMAGENET1K_V2`).

    Keras publishes how values are scaled, not how photographs are resized; its nets are given the same rule.

    Args:
      name: One of `preprocess_names()`.
    Raises:
      UsageError: If the name is not known; the nearest is in the message.
    Example:
      >>> preprocess("vgg16:keras").mean
      (103.939, 116.779, 123.68)
    """
    if name not in _KNOWN:
        raise unknown("preprocessing", name, _KNOWN)
    return _KNOWN[name]


def preprocess_names() -> list[str]:
    """Return every name that `preprocess` knows, sorted."""
    return sorted(_KNOWN)


def _check(images: jax.Array, depth: int) -> None:
    if images.ndim != 4 or images.shape[-1] != depth:
        hint = " Add a batch axis: images[None]." if images.ndim == 3 else ""
        raise ValueError(f"preprocess: expected images [N, H, W, {depth}], got shape {tuple(images.shape)}.{hint}")
    if images.dtype != jnp.uint8:
        raise TypeError(f"preprocess: expected uint8 pixels, got {images.dtype}. Give it the photographs as they are.")
    if min(images.shape[1:3]) < 1:
        raise UsageError(f"preprocess: expected images with pixels, got shape {tuple(images.shape)}.")


_TORCHVISION = Preprocess()
_TORCHVISION_V2 = Preprocess(resize=232)
# torchvision's pretrained GoogLeNet and InceptionV3 take images normalised as all others and then, inside the model and
# not in the file, undo that and map [0, 1] to [-1, 1]. This is the sum of both.
_REMAPPED = Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
_CAFFE = Preprocess(channels="BGR", scale=1.0, mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0))

# Keras's nets that scale pixels themselves, and those that take [-1, 1].
_PIXELS = Preprocess(scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
_SYMMETRIC = Preprocess(scale=1 / 127.5, mean=(1.0, 1.0, 1.0), std=(1.0, 1.0, 1.0))
# torchvision's EfficientNets: what the shorter side becomes, and the square.
_EFFICIENTNET = ((256, 224), (256, 240), (288, 288), (320, 300), (384, 380), (456, 456), (528, 528), (600, 600))
_WIDER = ("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2")
_MOBILE = ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large")

_KNOWN: dict[str, Preprocess] = {
    **dict.fromkeys(["alexnet", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"], _TORCHVISION),
    **{f"vgg{depth}{norm}": _TORCHVISION for depth in (11, 13, 16, 19) for norm in ("", "_bn")},
    **{f"resnet{depth}:v2": _TORCHVISION_V2 for depth in (50, 101, 152)},
    "vgg16:features": Preprocess(mean=(0.48235, 0.45882, 0.40784), std=(1 / 255, 1 / 255, 1 / 255)),
    "googlenet_torchvision": _REMAPPED,
    "inception_v3_torchvision": replace(_REMAPPED, resize=342, crop=299),
    **dict.fromkeys(["vgg16:keras", "vgg19:keras", "resnet50_v1", "resnet101_v1", "resnet152_v1"], _CAFFE),
    "inception_v3": replace(_SYMMETRIC, resize=342, crop=299),
    **dict.fromkeys([*_WIDER, *_MOBILE, *(f"densenet{depth}" for depth in (121, 169, 201))], _TORCHVISION),
    **{f"{name}:v2": _TORCHVISION_V2 for name in (*_WIDER, "mobilenet_v2", "mobilenet_v3_large")},
    **{
        f"efficientnet_b{n}": Preprocess(resize=resize, crop=crop, interpolation="bicubic")
        for n, (resize, crop) in enumerate(_EFFICIENTNET)
    },
    "efficientnet_b1:v2": Preprocess(resize=255, crop=240),
    **{
        f"convnext_{size}": Preprocess(resize=resize)
        for size, resize in {"tiny": 236, "small": 230, "base": 232, "large": 232}.items()
    },
    **{f"densenet{depth}_keras": _TORCHVISION for depth in (121, 169, 201)},
    "mobilenet_v2_keras": _SYMMETRIC,
    **dict.fromkeys([f"{name}_keras" for name in _MOBILE[1:]], _PIXELS),
    **{f"convnext_{size}_keras": _PIXELS for size in ("tiny", "small", "base", "large")},
    **{
        f"efficientnet_b{n}_keras": replace(_PIXELS, resize=side + 32, crop=side)
        for n, side in enumerate((224, 240, 260, 300, 380, 456, 528, 600))
    },
}
