"""The order of examples: which ones make up which batch, derived from (key, epoch) and nothing else."""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.batch import Batch
from cnnjax.data.balance import Balance
from cnnjax.devices import check_batch_size, padded_batch_size
from cnnjax.errors import UsageError


class Places(NamedTuple):
    """The examples of a batch: places in the split, -1 to fill up, and the epoch that each belongs to; int32, `[B]`."""

    index: np.ndarray
    epochs: np.ndarray


class AnySplit(Protocol):
    """What `batches` walks over: a split in memory (`Split`) or one that is read as needed (`StreamedSplit`)."""

    @property
    def name(self) -> str: ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def ids(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def resized(self, image_size: int | tuple[int, int] | None, resize_size: int | None = None) -> "AnySplit": ...

    def walk(
        self, order: Iterable[Places], *, key: jax.Array | None, mesh: jax.sharding.Mesh | None = None
    ) -> Iterator[Batch]:
        """Return the batches of those examples; with a key, training images are cut by it where they are cut."""
        ...


def epoch_range(num_examples: int, batch_size: int, epoch: int) -> range:
    """Return the numbers of the training steps that belong to an epoch, counted from the run's first.

    Step `s` takes the places `s * B` to `(s + 1) * B` of one endless stream, the epochs' permutations one after the
    other; epoch `e` owns the steps `ceil(e * N / B)` to `ceil((e + 1) * N / B) - 1`.

    Args:
      num_examples: N, at least B.
      batch_size: B, at least 1.
      epoch: e, at least 0.
    Raises:
      UsageError: If the batch is larger than the set, or either is below 1.
    Example:
      >>> [len(epoch_range(10, 4, epoch)) for epoch in range(4)]
      [3, 2, 3, 2]
    """
    _check_sizes("training set", num_examples, batch_size)
    if batch_size > num_examples:
        raise UsageError(
            f"batch size {batch_size} is larger than the {num_examples} training examples: use at most {num_examples}."
        )
    if epoch < 0:
        raise UsageError(f"epoch: expected at least 0, got {epoch}.")
    return range(-(-epoch * num_examples // batch_size), -(-(epoch + 1) * num_examples // batch_size))


def batches(
    split: AnySplit,
    batch_size: int,
    *,
    key: jax.Array | None = None,
    epoch: int = 0,
    train: bool = False,
    start: int = 0,
    mesh: jax.sharding.Mesh | None = None,
    sampling: str | None = None,
) -> Iterator[Batch]:
    """Walk over one epoch of a split.

    In training every batch is full: its examples are the next `batch_size` of an endless stream that joins the
    permutations of `fold_in(key, 0)`, `fold_in(key, 1)`, ..., so the last batch of an epoch may reach into the next.
    Otherwise the order is the split's own, each example comes exactly once, and the last batch is filled up with
    examples whose mask is False.

    Args:
      split: What to walk over.
      batch_size: Examples a batch, at least 1.
      key: PRNG key of the order; needed in training, not used otherwise.
      epoch: Number of the epoch, from 0; not used outside training.
      train: Which of the two orders.
      start: Batches to leave out at the front; they are not computed.
      mesh: Devices to lay each batch over (`cnnjax.devices.data_mesh`), a part on each; None for the default device.
        On several hosts each host calls this with the same arguments and reads the examples of its own devices alone.
        Outside training a batch that the devices do not divide evenly is filled up a little more.
      sampling: `balanced`, in training: an epoch has as many examples as always, but equally many of each class, those
        of a small one several times, and of a large one others in every epoch. None for each example once.
    Returns:
      An iterator over the batches, all of one shape.
    Raises:
      UsageError: If the split is empty, the batch does not fit or can't be divided, or the key is missing.
    """
    if sampling not in (None, "balanced") or (sampling and not train):
        raise UsageError(f"batches: expected sampling None, or 'balanced' with train=True, got {sampling!r}.")
    if not train:
        _check_sizes(f"{split.name} split", len(split), batch_size)
        return split.walk(_in_order(len(split), padded_batch_size(batch_size, mesh), start), key=None, mesh=mesh)
    check_batch_size(batch_size, mesh)
    _check_sizes(f"{split.name} split", len(split), batch_size)
    steps = epoch_range(len(split), batch_size, epoch)[start:]
    if key is None:
        raise UsageError("batches: expected a key for the training order. Pass key=jax.random.key(seed).")
    labels = np.asarray(split.labels) if sampling else None
    return split.walk(_in_training(len(split), batch_size, key, steps, labels), key=key, mesh=mesh)


def _in_order(num_examples: int, batch_size: int, start: int) -> Iterator[Places]:
    for first in range(start * batch_size, num_examples, batch_size):
        index = np.arange(first, first + batch_size, dtype=np.int32)
        yield Places(np.where(index < num_examples, index, np.int32(-1)), np.zeros_like(index))


def _in_training(
    num_examples: int, batch_size: int, key: jax.Array, steps: Iterable[int], labels: np.ndarray | None = None
) -> Iterator[Places]:
    bits = _Bits.of(key)
    balance = None if labels is None else Balance(labels, functools.partial(_permutation, num_examples, bits))
    for step in steps:
        epochs = np.arange(step * batch_size, (step + 1) * batch_size) // num_examples
        places = Places(_indices(num_examples, batch_size, step, bits), epochs.astype(np.int32))
        yield places if balance is None else Places(*balance(*places))


def stream_indices(num_examples: int, batch_size: int, step: int, key: jax.Array) -> np.ndarray:
    """Return the places in the split of the examples that training step `step` takes."""
    return _indices(num_examples, batch_size, step, _Bits.of(key))


def _check_sizes(what: str, num_examples: int, batch_size: int) -> None:
    if num_examples < 1:
        raise UsageError(f"the {what} is empty: expected at least 1 example.")
    if batch_size < 1:
        raise UsageError(f"batch size: expected at least 1, got {batch_size}.")


def _indices(num_examples: int, batch_size: int, step: int, bits: "_Bits") -> np.ndarray:
    epoch, place = divmod(step * batch_size, num_examples)
    head = _permutation(num_examples, bits, epoch)[place : place + batch_size]
    if len(head) == batch_size:
        return head
    return np.concatenate([head, _permutation(num_examples, bits, epoch + 1)[: batch_size - len(head)]])


class _Bits(NamedTuple):
    """A PRNG key on the host, so that permutations can be remembered by it."""

    data: bytes
    impl: str

    @classmethod
    def of(cls, key: jax.Array) -> "_Bits":
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        data = np.asarray(jax.random.key_data(key) if typed else key).tobytes()
        return cls(data, str(jax.random.key_impl(key)))


@functools.lru_cache(maxsize=4)  # a step at an epoch's end needs two
def _permutation(num_examples: int, bits: _Bits, epoch: int) -> np.ndarray:
    """Return `jax.random.permutation(fold_in(key, epoch), num_examples)`, sorted by NumPy, in a fifth of the time.

    A permutation is sorted by random numbers, so often that equal ones among them no longer matter.
    """
    key = jax.random.wrap_key_data(jnp.asarray(np.frombuffer(bits.data, np.uint32)), impl=bits.impl)
    rounds = math.ceil(3 * math.log(num_examples) / math.log(2**32 - 1))
    order = places = np.arange(num_examples, dtype=np.uint64)
    for numbers in np.asarray(_random_bits(key, epoch, num_examples, rounds)):
        # Number and place in one word: sorted by the number, then by the place.
        ranked = np.sort(numbers.astype(np.uint64) << np.uint64(32) | places)
        order = order[ranked & np.uint64(2**32 - 1)]
    order = order.astype(np.int32)
    order.flags.writeable = False
    return order


@functools.partial(jax.jit, static_argnames=("num_examples", "rounds"))
def _random_bits(key: jax.Array, epoch: int, num_examples: int, rounds: int) -> jax.Array:
    key, drawn = jax.random.fold_in(key, epoch), []
    for _ in range(rounds):
        key, subkey = jax.random.split(key)
        drawn.append(jax.random.bits(subkey, (num_examples,)))
    return jnp.stack(drawn) if drawn else jnp.zeros((0, num_examples), jnp.uint32)


def uniform_draws(seed: Sequence[int], count: int) -> list[float]:
    """Return uniform numbers in [0, 1) that depend on the seed alone, whatever NumPy's version.

    Example:
      >>> uniform_draws([0, 1], 2)
      [0.6073659924129827, 0.5037305356300301]
    """
    bits = np.random.Philox(np.random.SeedSequence(list(seed))).random_raw(count)
    return ((bits >> np.uint64(11)) * 2.0**-53).tolist()


def fixed_sample(num_examples: int, count: int) -> np.ndarray:
    """Return which of a set's places are put aside: the first `count` of one fixed permutation, in ascending order.

    A larger sample contains a smaller one, and classes come as they may, however the set's files are sorted.

    Example:
      >>> fixed_sample(10, 4).tolist()
      [0, 2, 5, 8]
    """
    keys = np.random.Philox(np.random.SeedSequence([num_examples])).random_raw(num_examples)
    return np.sort(np.argsort(keys, kind="stable")[:count])
