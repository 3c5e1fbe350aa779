import jax
import numpy as np
import pytest
from PIL import Image

from cnnjax.data import Split, batches, load_dataset, prepare_images
from cnnjax.data.resident import as_size
from cnnjax.errors import UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), dtype=np.uint8)
MEAN, STD = (0.5, 0.25, 0.1), (0.2, 0.3, 1.5)


def split(**changes):
    fields = {
        "name": "test",
        "images": IMAGES.copy(),
        "labels": np.arange(7, dtype=np.int32),
        "ids": [str(n) for n in range(7)],
        "mean": MEAN,
        "std": STD,
    }
    return Split(**(fields | changes))


def test_normalises_as_numpy_does():
    expected = (IMAGES.astype(np.float64) / 255 - MEAN) / STD
    got = prepare_images(IMAGES, mean=MEAN, std=STD)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


def test_batches_hold_what_predict_would_make_of_the_same_images():
    (batch,) = batches(split(), 7)
    np.testing.assert_array_equal(batch.image, jax.jit(lambda x: prepare_images(x, mean=MEAN, std=STD))(IMAGES))


@pytest.mark.parametrize("size", [(12, 10), (3, 2), (8, 3)])
def test_resizing_is_bilinear_and_antialiased_as_pillows(size):
    got = prepare_images(IMAGES, mean=(0.0,) * 3, std=(1 / 255,) * 3, image_size=size)
    for image, result in zip(IMAGES, got):
        planes = [Image.fromarray(image[..., c].astype(np.float32)) for c in range(3)]
        expected = [np.array(plane.resize(size[::-1], Image.Resampling.BILINEAR)) for plane in planes]
        np.testing.assert_allclose(result, np.stack(expected, -1), atol=0.02)


def test_wrong_number_of_channels_is_refused():
    with pytest.raises(ValueError, match=r"expected images with 1 channels, got shape \(7, 6, 5, 3\)"):
        prepare_images(IMAGES, mean=(0.5,), std=(0.5,))


def test_resized_split_gives_resized_batches():
    resized = split().resized(12)
    assert resized.image_shape == (12, 12, 3)
    assert next(batches(resized, 2)).image.shape == (2, 12, 12, 3)
    assert split().image_shape == (6, 5, 3)


def test_resizing_to_the_stored_size_is_no_resizing():
    assert split().resized((6, 5)).image_size is None
    assert split().resized(12).resized(None).image_size is None


def test_device_copies_are_made_once():
    one = split()
    assert one.device_arrays is one.device_arrays


def test_images_the_device_may_share_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        split().images[0] = 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": IMAGES.astype(np.float32)}, "expected uint8 images"),
        ({"images": IMAGES[..., 0]}, r"expected uint8 images \[N, H, W, C\], got uint8 \(7, 6, 5\)"),
        ({"ids": ["a"]}, "7 images, 7 labels, 1 ids"),
    ],
)
def test_splits_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        split(**changes)


def test_sizes():
    assert as_size((3, 4)) == (3, 4)
    assert as_size(None) is None
    with pytest.raises(UsageError, match="at least 1 pixel a side, got 0x0"):
        as_size(0)


def test_datasets_are_shown_in_a_few_lines():
    lines = repr(load_dataset("digits", image_size=32)).splitlines()
    assert lines == [
        "Dataset('digits', 10 classes)",
        "  train=Split('train', 1,305 images 32×32×1)",
        "  validation=Split('validation', 137 images 32×32×1)",
        "  test=Split('test', 355 images 32×32×1)",
    ]
