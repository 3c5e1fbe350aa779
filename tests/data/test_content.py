import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from cnnjax.data import named_sets
from cnnjax.data.dataset import statistics
from cnnjax.data.formats import Examples, canonical, example_digests
from cnnjax.data.named_sets import digits
from tests.data import tiny


def test_an_examples_digest_is_what_the_words_say():
    examples = tiny.examples(3)
    expected = [
        hashlib.sha256(i.tobytes() + int(n).to_bytes(8, "little")) for i, n in zip(examples.images, examples.labels)
    ]
    assert example_digests(examples) == [digest.digest() for digest in expected]
    total = hashlib.sha256(b"".join(sorted(digest.digest() for digest in expected))).hexdigest()
    assert canonical(examples)[1] == total


@given(st.permutations(range(20)))
def test_the_order_depends_on_the_content_alone(order):
    examples = tiny.examples(20, shape=(2, 2, 1))
    sorted_once, digest = canonical(examples)
    sorted_again, same = canonical(examples.take(order))
    assert digest == same
    np.testing.assert_array_equal(sorted_once.images, sorted_again.images)
    np.testing.assert_array_equal(sorted_once.labels, sorted_again.labels)


def test_equal_images_are_told_apart_by_their_ids():
    same = Examples(np.zeros((2, 1, 1, 1), np.uint8), np.zeros(2, np.int32), ids=["b", "a"])
    assert canonical(same)[0].ids == canonical(same.take([1, 0]))[0].ids == ["a", "b"]


@pytest.mark.parametrize("change", ["label", "pixel", "coarse"])
def test_any_change_changes_the_digest(change):
    plain = tiny.examples(10)
    examples = Examples(plain.images, plain.labels, np.zeros(10, np.int32))
    images, labels, coarse = examples.images.copy(), examples.labels.copy(), np.zeros(10, np.int32)
    {"label": labels, "pixel": images.reshape(-1), "coarse": coarse}[change][3] += 1
    assert canonical(examples)[1] != canonical(Examples(images, labels, coarse))[1]


def test_statistics_are_numpys():
    images = np.random.default_rng(0).integers(0, 256, (50, 7, 5, 3), dtype=np.uint8)
    mean, std = statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-12)


def test_a_constant_channel_divides_by_one():
    assert statistics(np.full((2, 3, 3, 1), 255, np.uint8)) == ((1.0,), (1.0,))


def test_digits_are_scikit_learns():
    source = load_digits()
    images = np.concatenate([digits()[split].images for split in ("train", "test")])
    labels = np.concatenate([digits()[split].labels for split in ("train", "test")])
    ours = sorted((np.round(i[..., 0] / 255 * 16).astype(int).tobytes(), int(n)) for i, n in zip(images, labels))
    assert ours == sorted((i.astype(int).tobytes(), int(n)) for i, n in zip(source.images, source.target))


def test_digits_test_set_is_every_fifth_of_its_class():
    source = load_digits()
    for label in range(10):
        of_class = np.round(source.images[source.target == label] * 255 / 16).astype(np.uint8)
        test = digits()["test"]
        np.testing.assert_array_equal(test.images[test.labels == label][..., 0], of_class[4::5])


@pytest.mark.parametrize("split", ["train", "test"])
def test_digits_content_is_pinned(split):
    assert canonical(digits()[split])[1] == named_sets.get("digits").digests[split]


def test_digits_statistics_are_pinned():
    entry = named_sets.get("digits")
    assert statistics(digits()["train"].images) == (entry.mean, entry.std)
