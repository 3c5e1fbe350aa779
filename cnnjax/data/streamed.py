"""Sets of encoded images: read, decoded and cut by Grain, some batches ahead; or whole in memory where they fit."""

import contextlib
import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from cnnjax.batch import Batch
from cnnjax.data import crops as cropping
from cnnjax.data.crops import Crops
from cnnjax.data.images import quiet
from cnnjax.data.order import Places, uniform_draws
from cnnjax.data.resident import Size, Split, as_size, normalise_batch
from cnnjax.devices import own_rows, shard_rows

# Images that are one element of Grain's: fewer hand-overs, and still enough pieces of a batch for many threads.
_PIECE = 4


class Encoded(NamedTuple):
    """An example as it is stored: the image file's content, or None for a file that is to be read at `name`."""

    name: str | Path
    data: bytes | None
    label: int
    id: str


class ImageSource(Protocol):
    """Encoded images by their places, given to several threads, or copies of it to processes, at once."""

    def __len__(self) -> int: ...

    def fetch(self, place: int) -> Encoded:
        """Return the example at a place, or raise CnnjaxError with one line that names it."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedSplit:
    """One split of a set that does not fit in memory: where its images are and how they are cut.

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
      processes: Processes that have so many threads each, for hosts with more cores than one process's lock lets work
        (about 2,500 images a second); a program that uses them needs `if __name__ == "__main__"`. 0 for none.
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
    processes: int = 0

    def __len__(self) -> int:
        return len(self.places)

    def __repr__(self) -> str:
        height, width, channels = self.image_shape
        return f"StreamedSplit({self.name!r}, {len(self):,} images cut to {height}×{width}×{channels})"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of the images in a batch."""
        return *self.crops.size, self.channels

    def resized(self, image_size: Size, resize_size: int | None = None) -> "StreamedSplit":
        """Return the split whose images are cut to that size, `(H, W)` or one number for both; None: as it is.

        `resize_size` is the shorter side from whose centre evaluation images are cut; None for in proportion.
        """
        size = as_size(image_size)
        if size is None and resize_size is None:
            return self
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

    @functools.cached_property
    def _described(self) -> tuple[np.ndarray, list[str]]:
        found = in_threads(lambda place: self.source.fetch(int(place))[2:], self.places, self.workers)
        labels = np.array([label for label, _ in found], np.int32)
        labels.flags.writeable = False
        return labels, [text for _, text in found]

    def in_memory(self) -> Split:
        """Return the split with its images read, cut as in evaluation, and kept on the device."""
        images, labels = np.empty((len(self), *self.image_shape), np.uint8), np.empty(len(self), np.int32)
        ids = [""] * len(self)

        def read(row: int) -> None:
            example = self.source.fetch(int(self.places[row]))
            labels[row], ids[row] = example.label, example.id
            images[row] = cropping.evaluation_image(example.name, example.data, self.crops, self.channels)

        in_threads(read, range(len(self)), self.workers)
        return Split(self.name, images, labels, ids, self.mean, self.std)

    def walk(
        self, order: Iterable[Places], *, key: jax.Array | None, mesh: jax.sharding.Mesh | None = None
    ) -> Iterator[Batch]:
        """Walk over batches, for `cnnjax.data.batches`; without a key, images are cut as in evaluation.

        Only this host's images are read. Closing or dropping the iterator ends its threads and processes.
        """
        batches = list(order)
        if not batches:
            return
        size = len(batches[0].index)
        kept = own_rows(size, mesh)
        index = np.stack([np.where(kept, batch.index, -1) for batch in batches])
        epochs = np.stack([batch.epochs for batch in batches])
        pieces = _Pieces(self, index, epochs, None if key is None else _words(key))
        with contextlib.closing(self._read(pieces, -(-size // _PIECE))) as read:
            for batch in batches:
                # Fresh memory each time: on a CPU the device uses it as it is.
                images, labels = np.zeros((size, *self.image_shape), np.uint8), np.zeros(size, np.int32)
                for first in range(0, size, _PIECE):
                    found = next(read)
                    if isinstance(found, BaseException):
                        raise found
                    images[first : first + _PIECE], labels[first : first + _PIECE] = found
                arrays = (images, labels, batch.index, batch.epochs)
                yield _normalise(*(arrays if mesh is None else shard_rows(arrays, mesh)), mean=self.mean, std=self.std)

    def _read(self, pieces: "_Pieces", pieces_a_batch: int) -> Any:
        """Return Grain's iterator over the pieces: Pillow and the readers let go of Python's lock while they work."""
        import grain

        ahead = max(1, self.prefetch * pieces_a_batch)
        options = grain.ReadOptions(num_threads=self.workers or os.cpu_count() or 1, prefetch_buffer_size=ahead)
        found = grain.MapDataset.source(pieces).to_iter_dataset(options)
        if self.processes:
            from absl import flags

            if not flags.FLAGS.is_parsed():  # outside of absl's own programs Grain finds its flags unread
                flags.FLAGS.mark_as_parsed()
            each = max(1, ahead // self.processes)
            found = found.mp_prefetch(grain.multiprocessing.MultiprocessingOptions(self.processes, each))
        return iter(found)


class _Pieces:
    """The images of all batches of a walk, a few at a time: what does not change with who reads them."""

    def __init__(self, split: StreamedSplit, index: np.ndarray, epochs: np.ndarray, words: Sequence[int] | None):
        self.source, self.places, self.crops, self.shape = split.source, split.places, split.crops, split.image_shape
        self.index, self.epochs, self.words = index, epochs, words
        self.each = -(-index.shape[1] // _PIECE)

    def __len__(self) -> int:
        return len(self.index) * self.each

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray] | BaseException:
        """Return images and labels, or what went wrong, which is raised where they are asked for."""
        _drop_warnings()
        batch, piece = divmod(int(index), self.each)
        rows = slice(piece * _PIECE, (piece + 1) * _PIECE)
        places, epochs = self.index[batch, rows], self.epochs[batch, rows]
        images, labels = np.zeros((len(places), *self.shape), np.uint8), np.zeros(len(places), np.int32)
        try:
            for row in np.flatnonzero(places >= 0):
                images[row], labels[row] = self._example(int(places[row]), int(epochs[row]))
        except BaseException as error:
            return error
        return images, labels

    def _example(self, place: int, epoch: int) -> tuple[np.ndarray, int]:
        example = self.source.fetch(int(self.places[place]))
        if self.words is None:
            image = cropping.evaluation_image(example.name, example.data, self.crops, self.shape[2])
        else:
            draws = uniform_draws([*self.words, epoch, place], cropping.DRAWS)
            image = cropping.training_image(example.name, example.data, self.crops, self.shape[2], draws)
        return image, example.label


@functools.cache
def _drop_warnings() -> None:
    """Drop Pillow's of odd metadata, for the whole process: they can't be dropped for some threads alone."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _words(key: jax.Array) -> list[int]:
    typed = jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key)
    return np.array(jax.random.key_data(key) if typed else key).ravel().tolist()


_normalise: Callable[..., Batch] = jax.jit(normalise_batch, static_argnames=("mean", "std"))


def in_threads(function: Callable[..., Any], items: Iterable[Any], workers: int | None = None) -> list[Any]:
    """Return what the function gives for each item, in order; warnings are dropped."""
    with quiet(), ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))
