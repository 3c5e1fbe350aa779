"""Splits that are whole in memory: kept on the device as uint8, turned into batches inside jit."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.batch import Batch
from cnnjax.data.order import Places
from cnnjax.devices import replicate, shard_rows
from cnnjax.errors import UsageError

Size = int | tuple[int, int] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Hold one split of a small set, in memory and, from its first batch on, on the device.

    Args:
      name: `"train"`, `"validation"` or `"test"`.
      images: uint8, `[N, H, W, C]`, as stored. Made read-only here: the device may share its memory.
      labels: Whole numbers of any type, `[N]`; kept as int32.
      ids: One text an example.
      mean: Per channel, of images scaled to [0, 1].
      std: The same for the standard deviation.
      image_size: `(H, W)` that images are resized to inside jit; None for as stored.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    ids: Sequence[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"Split: expected uint8 images [N, H, W, C], got {self.images.dtype} {self.images.shape}. "
                "Scale to 0..255 and add the missing axis."
            )
        if self.labels.ndim != 1 or self.labels.dtype.kind not in "iu":
            raise ValueError(
                f"Split: expected whole numbers [N] as labels, got {self.labels.dtype} {self.labels.shape}. "
                "Of one-hot labels take labels.argmax(axis=-1)."
            )
        object.__setattr__(self, "labels", self.labels.astype(np.int32))  # as int8 or uint8 they would overflow later
        if not len(self.images) == len(self.labels) == len(self.ids):
            raise ValueError(
                "Split: expected as many labels and ids as images, got "
                f"{len(self.images)} images, {len(self.labels)} labels, {len(self.ids)} ids."
            )
        self.images.flags.writeable = False
        self.labels.flags.writeable = False

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {len(self):,} images {'×'.join(map(str, self.image_shape))})"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of the images in a batch, after resizing."""
        height, width = self.image_size or self.images.shape[1:3]
        return height, width, self.images.shape[3]

    def resized(self, image_size: Size, resize_size: int | None = None) -> "Split":
        """Return the split whose batches hold images of that size, `(H, W)` or one number for both; None: as stored.

        Nothing is cut from them, whatever `resize_size` says: they are resized as a whole.
        """
        size = as_size(image_size)
        return dataclasses.replace(self, image_size=None if size == self.images.shape[1:3] else size)

    @functools.cached_property
    def device_arrays(self) -> tuple[jax.Array, jax.Array]:
        """Images and labels on the default device, copied there at the first use."""
        return jax.device_put((self.images, self.labels))

    def walk(
        self, order: Iterable[Places], *, key: jax.Array | None, mesh: jax.sharding.Mesh | None = None
    ) -> Iterator[Batch]:
        """Walk over batches; what `cnnjax.data.batches` calls. The key has no use here: nothing is cut."""
        for index, epochs in order:
            yield self.gather(index, epochs, mesh=mesh)

    def gather(
        self, index: np.ndarray, epoch: np.ndarray | None = None, *, mesh: jax.sharding.Mesh | None = None
    ) -> Batch:
        """Return the examples at places, int32, `[B]`, as one normalised batch; its mask is False where one is -1.

        `epoch` is the epoch that each place belongs to. The images are copied to each device at the first use.
        """
        epoch = np.zeros_like(index) if epoch is None else epoch
        arrays = self.device_arrays
        if mesh is not None:
            arrays, (index, epoch) = self._arrays_on(mesh), shard_rows((index, epoch), mesh)
        return _gather_jit(*arrays, index, epoch, mean=self.mean, std=self.std, image_size=self.image_size)

    def _arrays_on(self, mesh: jax.sharding.Mesh) -> tuple[jax.Array, jax.Array]:
        if mesh not in self._copies:
            self._copies[mesh] = replicate((self.images, self.labels), mesh)
        return self._copies[mesh]

    @functools.cached_property
    def _copies(self) -> dict[jax.sharding.Mesh, tuple[jax.Array, jax.Array]]:
        return {}


def as_size(image_size: Size) -> tuple[int, int] | None:
    """Return `(H, W)` for one number, a pair or None.

    Example:
      >>> as_size(32)
      (32, 32)
    """
    if image_size is None:
        return None
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height < 1 or width < 1:
        raise UsageError(f"image size: expected at least 1 pixel a side, got {height}x{width}.")
    return int(height), int(width)


def prepare_images(
    images: jax.Array,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    image_size: tuple[int, int] | None = None,
) -> jax.Array:
    """Turn stored images into what a model reads: `(resize(images) / 255 - mean) / std`.

    Args:
      images: uint8, `[N, H, W, C]`.
      mean: One number a channel, for images in [0, 1].
      std: One number a channel, none zero.
      image_size: `(H, W)` to resize to, bilinear and antialiased; None for as they are.
    Returns:
      float32, `[N, H, W, C]`.
    Raises:
      ValueError: If the number of channels differs from the statistics'.
    """
    channels = images.shape[-1]
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"prepare_images: expected images with {len(mean)} channels, got shape {images.shape}. "
            "Use the mean and std of the dataset the images belong to."
        )
    x = images.astype(jnp.float32)
    if image_size is not None and image_size != x.shape[1:3]:
        x = jax.image.resize(x, (x.shape[0], *image_size, channels), "bilinear", antialias=True)
    # One multiplication and one addition a pixel; the constants are worked out in double precision.
    scale = np.array([1 / (255 * s) for s in std], np.float32).reshape(1, 1, 1, channels)
    shift = np.array([-m / s for m, s in zip(mean, std)], np.float32).reshape(1, 1, 1, channels)
    return x * scale + shift


def normalise_batch(
    images: jax.Array,
    labels: jax.Array,
    index: jax.Array,
    epoch: jax.Array,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    image_size: tuple[int, int] | None = None,
) -> Batch:
    """Return the batch of stored images; the device gets them as uint8."""
    image = prepare_images(images, mean=mean, std=std, image_size=image_size)
    return Batch(image=image, label=labels, mask=index >= 0, index=index, epoch=epoch)


def gather_batch(images: jax.Array, labels: jax.Array, index: jax.Array, epoch: jax.Array, **how: Any) -> Batch:
    """Return the batch of the examples at `index`; the body of `Split.gather`."""
    place = jnp.maximum(index, 0)
    images, labels = (array.at[place].get(mode="clip") for array in (images, labels))
    return normalise_batch(images, labels, index, epoch, **how)


_gather_jit = jax.jit(gather_batch, static_argnames=("mean", "std", "image_size"))
