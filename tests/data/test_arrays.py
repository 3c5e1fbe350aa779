"""Datasets of arrays: every kind of them that people have, and what is refused with what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnnjax.data import batches, from_arrays
from cnnjax.errors import UsageError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (200, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(200) % 4


def by_id(data):
    return {i: (s.name, im) for s in (data.train, data.validation, data.test) for i, im in zip(s.ids, s.images)}


@pytest.mark.parametrize("kind", ["numpy", "jax", "float", "float64", "bfloat16", "pillow", "list"])
def test_every_kind_of_images_is_the_same_dataset(kind):
    images = {
        "numpy": lambda: IMAGES,
        "jax": lambda: jnp.asarray(IMAGES),
        "float": lambda: (IMAGES / 255).astype(np.float32),
        "float64": lambda: IMAGES / 255,
        "bfloat16": lambda: jnp.asarray(IMAGES // 128, jnp.bfloat16),
        "pillow": lambda: [Image.fromarray(image) for image in IMAGES],
        "list": lambda: IMAGES.tolist() and list(IMAGES),
    }[kind]()
    data = from_arrays(images, LABELS.tolist(), class_names="abcd")
    wanted = IMAGES // 128 * 255 if kind == "bfloat16" else IMAGES
    found = by_id(data)
    assert len(found) == 200
    for number in range(200):
        np.testing.assert_array_equal(found[f"train-{number:05d}"][1], wanted[number])
    assert data.info.class_names == tuple("abcd")
    assert data.info.image_shape == (6, 5, 3)
    for split in (data.train, data.validation, data.test):
        assert [LABELS[int(text[6:])] for text in split.ids] == split.labels.tolist()
    for split in (data.validation, data.test):
        assert 12 < len(split) < 50
        assert (np.bincount(split.labels, minlength=4) > 0).all()
    trained = np.concatenate([data.train.images, data.validation.images]) / 255
    np.testing.assert_allclose(data.info.mean, trained.mean((0, 1, 2)), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "int64", "uint64"])
def test_labels_of_any_whole_type(dtype):
    assert from_arrays(IMAGES, LABELS.astype(dtype)).train.labels.dtype == np.int32


def test_pillows_images_are_decoded_as_those_of_folders():
    # They were clipped to 255: 16 bits came out white, light of [0, 1] black.
    def found(make):
        pictures = [Image.fromarray(make(n)) for n in range(60)]
        return from_arrays(pictures, [0, 1] * 30, validation=0, test=(pictures, [0, 1] * 30)).train.images

    deep, light = (
        found(lambda n: np.full((4, 4), 257 * n, np.uint16)),
        found(lambda n: np.full((4, 4), n / 255, np.float32)),
    )
    expected = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None, None], (60, 4, 4, 1))
    np.testing.assert_array_equal(deep, expected)
    np.testing.assert_array_equal(light, expected)
    clear = found(lambda n: np.broadcast_to(np.array([n, 0, 0, 0], np.uint8), (4, 4, 4)).copy())
    assert (clear == 255).all()  # transparent, on white
    with pytest.raises(UsageError, match=r"pixels from 0 to 0\. Give arrays of uint8, or of floats in"):
        found(lambda n: np.full((4, 4), n, np.int32))


def test_an_image_keeps_its_side_when_others_come():
    before = by_id(from_arrays(IMAGES[:120], LABELS[:120]))
    after = by_id(from_arrays(IMAGES, LABELS))
    assert all(after[text][0] == side for text, (side, _) in before.items())
    order = RNG.permutation(200)
    moved = by_id(from_arrays(IMAGES[order], LABELS[order]))
    assert all(moved[f"train-{n:05d}"][0] == after[f"train-{old:05d}"][0] for n, old in enumerate(order))


def test_a_test_set_of_its_own_and_a_number_for_validation():
    data = from_arrays(IMAGES[:150, ..., 0], LABELS[:150], test=(IMAGES[150:, ..., 0], LABELS[150:]), validation=20)
    assert (len(data.train), len(data.validation), len(data.test)) == (130, 20, 50)
    np.testing.assert_array_equal(data.test.images[..., 0], IMAGES[150:, ..., 0])
    assert np.bincount(data.validation.labels).tolist() == [5, 5, 5, 5]
    batch = next(batches(data.train, 8, key=jax.random.key(0), train=True))
    assert batch.image.shape == (8, 6, 5, 1)
    assert len(from_arrays(IMAGES, LABELS, test=0.5).test) > 80


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        (IMAGES, np.eye(4)[LABELS], {}, r"labels: .* got float64 \(200, 4\)\. Take labels.argmax"),
        (IMAGES, np.eye(4, dtype=int)[LABELS], {}, "Take labels.argmax"),
        (IMAGES, LABELS.astype(float), {}, "expected whole numbers .* Number the classes"),
        (IMAGES, ["cat"] * 200, {}, "Number the classes from 0 on"),
        (IMAGES, LABELS - 1, {}, "expected numbers from 0 on, got -1"),
        (IMAGES, LABELS[:9], {}, "got 9 labels and 200 images"),
        (IMAGES.transpose(0, 3, 1, 2), LABELS, {}, r"got \(200, 3, 6, 5\)\. Move the channels last"),
        (IMAGES[0], LABELS, {"test": 2.0}, "got 200 labels and 6 images|above 0 and below 1"),
        (IMAGES.astype(np.float32), LABELS, {}, "floats in .0, 1., got float32 from 0.0 to 255.0. Scale them"),
        (IMAGES.astype(np.int32), LABELS, {}, r"got int32 from 0 to 255.* images\.astype\('uint8'\) of"),
        (IMAGES / 255 - 0.5, LABELS, {}, "Scale them"),
        (np.full((200, 2, 2, 1), np.nan), LABELS, {}, "Scale them"),
        (IMAGES[:0], LABELS[:0], {}, "expected .N, H, W, C."),
        (IMAGES, LABELS, {"class_names": "abc"}, "labels reach 3; class_names has 3 names"),
        (IMAGES, LABELS, {"test": 1.5}, "above 0 and below 1"),
        (IMAGES, LABELS, {"validation": 200}, "expected 0 to 199 examples, got 200"),
        (IMAGES, LABELS, {"test": (IMAGES[:, :4], LABELS)}, r"expected images \(6, 5, 3\) .*, got \(4, 5, 3\)"),
        (IMAGES[:1], LABELS[:1], {}, "too few"),
        (IMAGES, LABELS, {"test": (IMAGES,)}, r"expected two, images and labels, got 1\. Write test="),
        (IMAGES, LABELS, {"test": [IMAGES, LABELS[:9]]}, "got 9 labels and 200 images"),
        (
            [np.zeros((2, 2), np.uint8), np.zeros((3, 2), np.uint8)],
            [0, 1],
            {},
            r"such as \(2, 2\) and \(3, 2\)\. Resize",
        ),
        ([np.zeros((2, 2), np.uint8), Image.new("L", (2, 2))], [0, 1], {}, "images of Pillow's or arrays, got both"),
        ([Image.new("L", (2, 2)), Image.new("L", (3, 2))], [0, 1], {}, "expected one size, got 2"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(images, labels, options, message):
    with pytest.raises(UsageError, match=message) as caught:
        from_arrays(images, labels, **options)
    assert "\n" not in str(caught.value)
