import itertools

import chex
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnjax.data import Split, batches, epoch_range, resident
from cnnjax.data.order import stream_indices
from cnnjax.errors import UsageError

KEY = jax.random.key(3)


def numbered(count, name="test"):
    """Return a split whose example n is black, has label n and the id `#n`."""
    labels = np.arange(count, dtype=np.int32)
    return Split(name, np.zeros((count, 2, 3, 1), np.uint8), labels, [f"#{n}" for n in labels], (0.5,), (0.25,))


def labels_of(walk):
    return [np.array(batch.label).tolist() for batch in walk]


# Few sizes of the set, for each is a compile of its own; any size of the batch.
sizes = st.sampled_from([1, 2, 7, 60]).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@given(sizes, st.integers(0, 8))
def test_epochs_own_every_step_once(size, epoch):
    count, batch_size = size
    before, now = epoch_range(count, batch_size, epoch), epoch_range(count, batch_size, epoch + 1)
    assert before.stop == now.start
    assert epoch_range(count, batch_size, 0).start == 0
    # The first step of an epoch is the first that begins in it.
    assert (now.start - 1) * batch_size < (epoch + 1) * count <= now.start * batch_size


@given(sizes)
def test_each_example_comes_once_an_epoch(size):
    count, batch_size = size
    epochs = 3
    steps = -(-epochs * count // batch_size)
    stream = np.concatenate([stream_indices(count, batch_size, step, KEY) for step in range(steps)])
    for epoch in range(epochs):
        assert sorted(stream[epoch * count : (epoch + 1) * count]) == list(range(count))


@pytest.mark.parametrize("size", [1, 2, 1305, 5000])
def test_orders_of_every_size_are_jaxs(size):
    for epoch in (0, 7):
        expected = jax.random.permutation(jax.random.fold_in(KEY, epoch), size)
        np.testing.assert_array_equal(stream_indices(size, size, epoch, KEY), expected)


def test_order_is_jaxs_permutation_of_key_and_epoch():
    for epoch in (0, 1, 5):
        expected = np.array(jax.random.permutation(jax.random.fold_in(KEY, epoch), 8))
        np.testing.assert_array_equal(stream_indices(8, 4, 2 * epoch, KEY), expected[:4])
        np.testing.assert_array_equal(stream_indices(8, 4, 2 * epoch + 1, KEY), expected[4:])


@pytest.mark.parametrize("key", [jax.random.PRNGKey(3), jax.random.key(3)], ids=["raw", "typed"])
def test_raw_and_typed_keys_give_the_same_order(key):
    np.testing.assert_array_equal(stream_indices(9, 9, 0, key), stream_indices(9, 9, 0, KEY))


def test_other_generators_have_their_own_order():
    order = stream_indices(50, 50, 0, jax.random.key(3, impl="rbg"))
    assert sorted(order) == list(range(50))
    assert order.tolist() != stream_indices(50, 50, 0, KEY).tolist()


def test_keys_and_epochs_give_different_orders():
    orders = [stream_indices(50, 50, epoch, jax.random.key(seed)).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(map(tuple, orders))) == 4


def test_training_batches_are_full_and_run_on_across_epochs():
    split = numbered(10)
    epochs = [labels_of(batches(split, 4, key=KEY, epoch=epoch, train=True)) for epoch in range(4)]
    assert [len(epoch) for epoch in epochs] == [3, 2, 3, 2]
    stream = list(itertools.chain(*itertools.chain(*epochs)))
    assert len(stream) == 40
    assert all(sorted(stream[n : n + 10]) == list(range(10)) for n in range(0, 40, 10))


def test_training_mask_counts_every_example():
    assert all(np.all(batch.mask) for batch in batches(numbered(10), 4, key=KEY, train=True))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_start_resumes_exactly(train, start):
    split, options = numbered(11), {"key": KEY, "epoch": 2, "train": train}
    whole = labels_of(batches(split, 4, **options))
    assert labels_of(batches(split, 4, start=start, **options)) == whole[start:]


def test_start_computes_no_batch_that_is_left_out(monkeypatch):
    seen = []
    monkeypatch.setattr(Split, "gather", lambda self, index, *_, **__: seen.append(index.tolist()))
    list(batches(numbered(12), 4, start=2))
    assert seen == [[8, 9, 10, 11]]


@pytest.mark.parametrize("count", [1, 5, 103])
@pytest.mark.parametrize("batch_size", [1, 16, 200])
def test_evaluation_counts_every_example_once(count, batch_size):
    walk = list(batches(numbered(count), batch_size))
    assert {batch.label.shape for batch in walk} == {(batch_size,)}
    kept = [np.array(batch.label)[np.array(batch.mask)].tolist() for batch in walk]
    assert list(itertools.chain(*kept)) == list(range(count))


def test_one_compile_for_training_and_evaluation_last_batch_included(monkeypatch):
    traced = chex.assert_max_traces(resident.gather_batch, n=1)
    monkeypatch.setattr(resident, "_gather_jit", jax.jit(traced, static_argnames=("mean", "std", "image_size")))
    split = numbered(11)
    for epoch in range(3):
        list(batches(split, 4, key=KEY, epoch=epoch, train=True))
    list(batches(split, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch size: expected at least 1, got 0"),
        ({"batch_size": 11, "train": True, "key": KEY}, "batch size 11 is larger than the 10 training examples"),
        ({"batch_size": 4, "train": True}, "expected a key for the training order"),
        ({"batch_size": 4, "train": True, "key": KEY, "epoch": -1}, "epoch: expected at least 0, got -1"),
    ],
)
def test_wrong_arguments_fail_at_the_call(arguments, message):
    with pytest.raises(UsageError, match=message):
        batches(numbered(10), **arguments)


@pytest.mark.parametrize("train", [True, False])
def test_an_empty_split_is_refused_by_name(train):
    with pytest.raises(UsageError, match="the validation split is empty: expected at least 1 example"):
        batches(numbered(0, "validation"), 4, key=KEY, train=train)


def unequal():
    """Return a split of 60 examples, 48, 9 and 3 of the classes 0, 2 and 3; images tell which is which."""
    labels = np.repeat(np.array([0, 2, 3], np.int32), [48, 9, 3])
    images = np.arange(60, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 1), np.uint8)
    return Split("train", images, labels, [f"#{n}" for n in range(60)], (0.0,), (1.0,))


def test_balanced_epochs_have_as_many_of_each_class():
    split = unequal()
    walks = [list(batches(split, 15, key=KEY, epoch=e, train=True, sampling="balanced")) for e in range(4)]
    for walk in walks:
        index = np.concatenate([batch.index for batch in walk])
        assert np.bincount(split.labels[index]).tolist() == [20, 0, 20, 20]
        # Those of small classes equally often, those of the large one at most once.
        assert set(np.bincount(index, minlength=60)[48:57]) == {2, 3}
        assert set(np.bincount(index, minlength=60)[57:]) == {6, 7}
        assert np.bincount(index, minlength=60)[:48].max() == 1
        # Again, but not in the same epoch's name: augmented in another way.
        epochs = np.concatenate([batch.epoch for batch in walk])
        assert len(set(zip(index.tolist(), epochs.tolist()))) == 60
        np.testing.assert_array_equal(np.concatenate([batch.label for batch in walk]), split.labels[index])
    seen = [{int(n) for batch in walk for n in batch.index if n < 48} for walk in walks]
    assert len(set.union(*seen)) > 35  # 20 others of 48 in every epoch; 42 are to be expected
    assert seen[0] != seen[1]


@pytest.mark.parametrize("size", [7, 15, 60])
def test_balanced_sampling_resumes_exactly_and_follows_the_key(size):
    split, options = unequal(), {"train": True, "sampling": "balanced", "epoch": 2}
    whole = [np.array(batch.index) for batch in batches(split, size, key=KEY, **options)]
    again = [np.array(batch.index) for batch in batches(split, size, key=KEY, start=1, **options)]
    chex.assert_trees_all_equal(again, whole[1:])
    other = [np.array(batch.index) for batch in batches(split, size, key=jax.random.key(4), **options)]
    assert not np.array_equal(other[0], whole[0])


@pytest.mark.parametrize("options", [{"sampling": "equal", "train": True}, {"sampling": "balanced"}])
def test_other_samplings_are_refused(options):
    with pytest.raises(UsageError, match="expected sampling None, or 'balanced' with train=True"):
        batches(unequal(), 5, key=KEY, **options)
