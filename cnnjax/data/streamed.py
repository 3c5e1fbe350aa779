"""Sets that do not fit in memory: encoded images are read, decoded and cut by threads, some batches ahead."""

import contextlib
import dataclasses
import functools
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import jax
import numpy as np

from cnnjax.batch import Batch
from cnnjax.data import crops as cropping
from cnnjax.data.chance import uniform_draws
from cnnjax.data.crops import Crops
from cnnjax.data.resident import Size, as_size, normalise_batch
from cnnjax.data.stream import epoch_range, stream_epochs, stream_indices
from cnnjax.devices import own_rows, shard_rows

# Images that a thread takes at a time: fewer hand-overs, and still enough pieces of a batch for many threads.
_PIECE = 4


class Encoded(NamedTuple):
    """An example as it is stored.

    Args:
      name: The image file, or, with `data`, what to call the image in messages.
      data: The image file's content; None for one that is to be read at `name`.
      label: Its class.
      id: What tells it apart from the others, such as a file's name.
    """

    name: str | Path
    data: bytes | None
    label: int
    id: str


class ImageSource(Protocol):
    """Give encoded images by their places, to several threads at once."""

    def __len__(self) -> int: ...

    def fetch(self, place: int) -> Encoded:
        """Return the example at a place, or raise CnnjaxError with one line that names it."""
        ...


class _Places(NamedTuple):
    """The examples of a batch: places in the split, -1 to fill up; for training, the epoch that each belongs to."""

    index: np.ndarray
    epochs: np.ndarray | None


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedSplit:
    """Hold one split of a set that does not fit in memory: where its images are and how they are cut.

    Walked over by `cnnjax.data.batches` as a split in memory is, in the same order for the same key.

    Args:
      name: `"train"`, `"validation"` or `"test"`.
      source: Where the encoded images are.
      places: Places in the source of the split's examples, `[N]`, in order.
      crops: How images are cut.
      channels: 1 or 3.
      mean: Per channel, of images scaled to [0, 1].
      std: The same for the standard deviation.
      workers: Threads that read and decode; None for one a core. The batches do not depend on it.
      prefetch: Batches that are prepared ahead of the one in use. In memory at a time: this many and one, as uint8.
    """

    name: str
    source: ImageSource
    places: np.ndarray
    crops: Crops
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    workers: int | None = None
    prefetch: int = 2

    def __len__(self) -> int:
        return len(self.places)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of the images in a batch."""
        return *self.crops.size, self.channels

    def resized(self, image_size: Size, resize_size: int | None = None) -> "StreamedSplit":
        """Return the split whose images are cut to that size, `(H, W)` or one number for both; None: as it is.

        Args:
          image_size: The size.
          resize_size: Pixels of the shorter side from whose centre evaluation images are cut; None for in proportion.
        """
        size = as_size(image_size)
        crops = self.crops if size is None else self.crops.resized(size)
        return dataclasses.replace(self, crops=dataclasses.replace(crops, resize=resize_size or crops.resize))

    @property
    def labels(self) -> np.ndarray:
        """Labels, int32, `[N]`; the first use of this or `ids` reads the whole split, without decoding images."""
        return self._described[0]

    @property
    def ids(self) -> Sequence[str]:
        """One text an example, the image file's name."""
        return self._described[1]

    def walk(
        self,
        batch_size: int,
        *,
        key: jax.Array | None,
        epoch: int,
        train: bool,
        start: int,
        mesh: jax.sharding.Mesh | None = None,
    ) -> Iterator[Batch]:
        """Walk over one epoch; what `cnnjax.data.batches` calls once it has checked its arguments.

        Args:
          batch_size: Examples a batch.
          key: PRNG key of the order and of the random parts; for training.
          epoch: Number of the epoch.
          train: Whether to walk in the training order and cut at random.
          start: Batches to leave out at the front.
          mesh: Devices to lay the batches over; only the images of this host's devices are read.
        Returns:
          An iterator; closing it, or dropping it, ends its threads.
        """
        if not train or key is None:
            return self._batches(_in_order(len(self), batch_size, start), None, mesh)
        return self._batches(_in_training(len(self), batch_size, key, epoch, start), _words(key), mesh)

    def _batches(
        self, wanted: Iterable[_Places], words: Sequence[int] | None, mesh: jax.sharding.Mesh | None
    ) -> Iterator[Batch]:
        under_way: deque[_UnderWay] = deque()
        with _pool(self.workers) as pool:
            for places in wanted:
                under_way.append(self._begin(pool, places, words, mesh))
                if len(under_way) > self.prefetch:
                    yield self._finish(under_way.popleft(), mesh)
            while under_way:
                yield self._finish(under_way.popleft(), mesh)

    def _begin(
        self, pool: ThreadPoolExecutor, places: _Places, words: Sequence[int] | None, mesh: jax.sharding.Mesh | None
    ) -> "_UnderWay":
        size = len(places.index)
        wanted = (places.index >= 0) & own_rows(size, mesh)
        # Fresh memory each time: on a CPU the device uses it as it is.
        images, labels = np.zeros((size, *self.image_shape), np.uint8), np.zeros(size, np.int32)

        def fill(rows: range) -> None:
            for row in rows:
                if wanted[row]:
                    images[row], labels[row] = self._example(places, row, words)

        pieces = [range(first, min(first + _PIECE, size)) for first in range(0, size, _PIECE)]
        return _UnderWay(images, labels, places, [pool.submit(fill, piece) for piece in pieces])

    def _example(self, places: _Places, row: int, words: Sequence[int] | None) -> tuple[np.ndarray, int]:
        place = int(places.index[row])
        example = self.source.fetch(int(self.places[place]))
        if places.epochs is None or words is None:
            image = cropping.evaluation_image(example.name, example.data, self.crops, self.channels)
        else:
            draws = uniform_draws([*words, int(places.epochs[row]), place], cropping.DRAWS)
            image = cropping.training_image(example.name, example.data, self.crops, self.channels, draws)
        return image, example.label

    def _finish(self, batch: "_UnderWay", mesh: jax.sharding.Mesh | None) -> Batch:
        for piece in batch.pieces:
            piece.result()
        index = batch.places.index.astype(np.int32)
        epochs = np.zeros_like(index) if batch.places.epochs is None else batch.places.epochs.astype(np.int32)
        arrays = (batch.images, batch.labels, index, epochs)
        return _normalise(*(arrays if mesh is None else shard_rows(arrays, mesh)), mean=self.mean, std=self.std)

    @functools.cached_property
    def _described(self) -> tuple[np.ndarray, list[str]]:
        with _pool(self.workers) as pool:
            found = list(pool.map(lambda place: self.source.fetch(int(place))[2:], self.places))
        labels = np.array([label for label, _ in found], np.int32)
        labels.flags.writeable = False
        return labels, [text for _, text in found]


class _UnderWay(NamedTuple):
    images: np.ndarray
    labels: np.ndarray
    places: _Places
    pieces: list[Future]


def _words(key: jax.Array) -> list[int]:
    typed = jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key)
    return np.array(jax.random.key_data(key) if typed else key).ravel().tolist()


def _in_order(num_examples: int, batch_size: int, start: int) -> Iterator[_Places]:
    for first in range(start * batch_size, num_examples, batch_size):
        index = np.arange(first, first + batch_size)
        yield _Places(np.where(index < num_examples, index, -1), None)


def _in_training(num_examples: int, batch_size: int, key: jax.Array, epoch: int, start: int) -> Iterator[_Places]:
    for step in epoch_range(num_examples, batch_size, epoch)[start:]:
        index = stream_indices(num_examples, batch_size, step, key)
        yield _Places(index, stream_epochs(num_examples, batch_size, step))


@contextlib.contextmanager
def _pool(workers: int | None) -> Iterator[ThreadPoolExecutor]:
    """Threads, which decode in parallel because Pillow and the readers let go of Python's lock while they work.

    Measured on busy cores: a photograph of 500x375 takes about 4 ms of a core to become a random part of 224x224, and
    what is not decoding or resizing, most of it under the lock, about 0.4 ms. So one process cannot give much more
    than 2,500 images a second, however many cores it has. Grain's threads took as long for each image.
    """
    # Of odd metadata, which ImageNet has, and of sizes before our own limit speaks. For the whole process, because
    # warnings cannot be dropped for some threads alone.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix="cnnjax-decode")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_normalise: Callable[..., Batch] = jax.jit(normalise_batch, static_argnames=("mean", "std"))
