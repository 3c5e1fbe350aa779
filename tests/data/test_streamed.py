"""Splits that are read as needed: what comes out does not depend on how it was fetched."""

import dataclasses
import hashlib
import itertools
import threading
import time

import chex
import jax
import numpy as np
import pytest

from cnnjax.data import Split, batches, streamed
from cnnjax.data.crops import DRAWS, Crops, evaluation_image, training_image
from cnnjax.data.folder import ImageFiles
from cnnjax.data.order import fixed_sample, uniform_draws
from cnnjax.data.streamed import Encoded, StreamedSplit
from cnnjax.errors import CnnjaxError, UsageError
from tests.data.photos import examples

KEY = jax.random.key(3)
EXAMPLES = examples(11)
CROPS = Crops(size=(16, 12), resize=20, random=True)
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.5, 0.2)


class Source:
    """Give JPEG bytes from memory, count how often, and fail where it is told to."""

    def __init__(self, found=EXAMPLES, fail=None):
        self.found, self.fail, self.fetched = found, fail or {}, 0

    def __len__(self):
        return len(self.found)

    def fetch(self, place):
        self.fetched += 1
        if place in self.fail:
            raise self.fail[place]
        file_name, data, label = self.found[place]
        return Encoded(f"example {place} ({file_name})", data, label, file_name)


def split_of(source=None, count=11, **changes):
    options = {"workers": 2, "prefetch": 1} | changes
    return StreamedSplit("train", source or Source(), np.arange(count), CROPS, 3, MEAN, STD, **options)


def digests(walk):
    return [hashlib.sha256(b"".join(np.array(leaf).tobytes() for leaf in jax.tree.leaves(b))).hexdigest() for b in walk]


def decoding_threads(wait=0.0):
    """Return the threads that decode; with a time to wait, those that are left by then."""
    end = time.monotonic() + wait
    while True:
        found = [thread for thread in threading.enumerate() if thread.name.startswith("grain-prefetch")]
        if not found or time.monotonic() >= end:
            return found
        time.sleep(0.01)


def normalised(image):
    return ((image / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32)


def test_the_order_is_that_of_a_split_in_memory():
    labels = np.array([label for _, _, label in EXAMPLES], np.int32)
    resident = Split("train", np.zeros((11, 1, 1, 3), np.uint8), labels, [""] * 11, MEAN, STD)
    for train, epoch, start in [(True, 0, 0), (True, 1, 0), (True, 2, 1), (False, 0, 0), (False, 0, 2)]:
        options = {"key": KEY, "train": train, "epoch": epoch, "start": start}
        ours, theirs = (list(batches(split, 4, **options)) for split in (split_of(), resident))
        assert len(ours) == len(theirs) > 0
        for one, other in zip(ours, theirs):
            np.testing.assert_array_equal(one.mask, other.mask)
            np.testing.assert_array_equal(np.array(one.label)[one.mask], np.array(other.label)[other.mask])
            assert one.mask.dtype == other.mask.dtype
            assert one.label.dtype == other.label.dtype
            assert one.image.dtype == other.image.dtype


@pytest.mark.parametrize("typed", [True, False])
def test_random_parts_follow_from_key_epoch_and_place(typed):
    key = KEY if typed else jax.random.PRNGKey(3)
    words = np.array(jax.random.key_data(KEY)).tolist()
    steps = itertools.chain(*(batches(split_of(), 4, key=key, epoch=epoch, train=True) for epoch in range(2)))
    seen = 0
    for step, batch in enumerate(steps):
        for row, image in enumerate(np.array(batch.image)):
            epoch, at = divmod(4 * step + row, 11)
            place = int(np.array(jax.random.permutation(jax.random.fold_in(KEY, epoch), 11))[at])
            draws = uniform_draws([*words, epoch, place], DRAWS)
            wanted = training_image("x", EXAMPLES[place][1], CROPS, 3, draws)
            np.testing.assert_allclose(image, normalised(wanted), atol=1e-5)
            seen += 1
    assert seen == 24  # two epochs of 11, and the last batch reaches into the third


def test_keys_epochs_and_places_give_other_parts():
    drawn = {tuple(uniform_draws(seed, 3)) for seed in ([1, 2, 0, 0], [1, 3, 0, 0], [1, 2, 1, 0], [1, 2, 0, 1])}
    assert len(drawn) == 4


@pytest.mark.parametrize("train", [True, False])
def test_neither_threads_nor_prefetching_change_a_batch(train):
    options = {"key": KEY, "train": train, "epoch": 1}
    usual = digests(batches(split_of(workers=1, prefetch=0), 4, **options))
    for workers, prefetch in [(1, 3), (2, 1), (5, 2), (None, 9)]:
        assert digests(batches(split_of(workers=workers, prefetch=prefetch), 4, **options)) == usual


@pytest.mark.slow  # each process takes seconds to start
def test_processes_change_no_batch_and_hand_on_what_went_wrong(tmp_path):
    """By folders: what is sent to a process is pickled."""
    files = []
    for name, data, label in EXAMPLES:
        (tmp_path / name).write_bytes(data)
        files.append((name, label))
    split = StreamedSplit("train", ImageFiles(tmp_path, files), np.arange(11), CROPS, 3, MEAN, STD, workers=1)
    for options in ({"key": KEY, "train": True, "epoch": 1}, {"start": 1}):
        usual = digests(batches(split, 4, **options))
        assert digests(batches(dataclasses.replace(split, processes=2), 4, **options)) == usual
    (tmp_path / EXAMPLES[9][0]).write_bytes(b"no image")
    walk = batches(dataclasses.replace(split, processes=1), 4)
    list(itertools.islice(walk, 2))
    with pytest.raises(CnnjaxError, match=rf"^{tmp_path}/{EXAMPLES[9][0]}: not an image"):
        next(walk)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("start", [1, 2, 3])
def test_start_resumes_exactly_and_fetches_nothing_that_is_left_out(train, start):
    options = {"key": KEY, "train": train, "epoch": 2}
    whole = digests(batches(split_of(), 4, **options))
    source = Source()
    assert digests(batches(split_of(source), 4, start=start, **options)) == whole[start:]
    assert source.fetched <= 4 * len(whole[start:])


@pytest.mark.parametrize("batch_size", [1, 4, 11, 30])
def test_evaluation_counts_every_example_once(batch_size):
    walk = list(batches(split_of(), batch_size))
    assert {batch.image.shape for batch in walk} == {(batch_size, 16, 12, 3)}
    images = np.concatenate([np.array(batch.image)[np.array(batch.mask)] for batch in walk])
    labels = np.concatenate([np.array(batch.label)[np.array(batch.mask)] for batch in walk])
    assert labels.tolist() == [label for _, _, label in EXAMPLES]
    for image, (_, data, _) in zip(images, EXAMPLES):
        np.testing.assert_allclose(image, normalised(evaluation_image("x", data, CROPS, 3)), atol=1e-5)


def test_labels_and_ids_are_read_without_decoding():
    broken = [(name, b"no image", label) for name, _, label in EXAMPLES]
    split = split_of(Source(broken))
    assert split.labels.tolist() == [label for _, _, label in EXAMPLES]
    assert split.labels.dtype == np.int32
    assert split.ids == [name for name, _, _ in EXAMPLES]
    assert split.source.fetched == 11


def test_a_split_may_hold_some_of_a_source():
    split = StreamedSplit("validation", Source(), np.array([7, 2]), CROPS, 3, MEAN, STD)
    (batch,) = batches(split, 2)
    assert np.array(batch.label).tolist() == [EXAMPLES[7][2], EXAMPLES[2][2]]


def test_other_sizes():
    split = split_of()
    assert split.resized(None) is split
    assert split.resized(8).image_shape == (8, 8, 3)
    assert split.resized(8).crops.resize == 10
    assert next(batches(split.resized((8, 6)), 2)).image.shape == (2, 8, 6, 3)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (CnnjaxError("example 5: cannot be read (gone)."), "example 5: cannot be read"),
        (MemoryError("no more"), "no more"),
        (SystemExit("killed"), "killed"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_ends_a_thread_ends_the_walk(error, message):
    walk = batches(split_of(Source(fail={5: error})), 2)
    list(itertools.islice(walk, 2))
    with pytest.raises(type(error), match=message):
        next(walk)
    assert not decoding_threads(wait=5)


def test_an_image_that_cannot_be_decoded_is_one_line_that_names_it():
    broken = list(EXAMPLES)
    broken[6] = ("n01_6.JPEG", broken[6][1][:-700], 1)
    with pytest.raises(CnnjaxError, match=r"^example 6 \(n01_6.JPEG\): .*truncated") as caught:
        list(batches(split_of(Source(broken)), 4, key=KEY, train=True))
    assert "\n" not in str(caught.value)
    assert not decoding_threads(wait=5)


def test_a_walk_that_is_dropped_leaves_no_thread_and_runs_only_so_far_ahead():
    source = Source(EXAMPLES * 20)
    walk = batches(split_of(source, count=220, workers=3, prefetch=2), 4)
    next(walk)
    time.sleep(0.2)
    assert source.fetched <= (2 + 1) * 4
    assert decoding_threads()
    del walk
    assert not decoding_threads(wait=5)


def test_nothing_is_fetched_before_the_first_batch_is_asked_for():
    source = Source()
    batches(split_of(source), 4)
    assert source.fetched == 0
    with pytest.raises(UsageError, match="batch size 12 is larger than the 11 training examples"):
        batches(split_of(), 12, key=KEY, train=True)
    with pytest.raises(UsageError, match="the train split is empty"):
        batches(split_of(count=0), 4)


def test_one_compile_for_training_and_evaluation(monkeypatch):
    traced = chex.assert_max_traces(streamed.normalise_batch, n=1)
    monkeypatch.setattr(streamed, "_normalise", jax.jit(traced, static_argnames=("mean", "std")))
    for epoch in range(2):
        list(batches(split_of(), 4, key=KEY, epoch=epoch, train=True))
    list(batches(split_of(), 4))


def test_samples_are_fixed_and_nested():
    small, large = fixed_sample(100, 10), fixed_sample(100, 30)
    assert set(small) < set(large) < set(range(100))
    assert small.tolist() == sorted(set(small.tolist()))
    # Pinned: it decides which of ImageNet's images are never trained on.
    assert fixed_sample(1281167, 10000)[:4].tolist() == [92, 124, 223, 277]
    places = fixed_sample(100000, 10000)
    assert abs(places.mean() - 50000) < 5 * 100000 / np.sqrt(12 * 10000)
