"""Cutting images of any size, against torchvision where it is installed and against Pillow and NumPy where not."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from cnnjax.data.crops import DRAWS, Crops, evaluation_image, random_box, training_image
from cnnjax.data.images import read_image
from cnnjax.data.order import uniform_draws
from cnnjax.errors import CnnjaxError, UsageError
from tests.data.photos import jpeg, picture
from tests.pretrained.torchvision_oracle import torchvision

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
SHAPES = [(375, 500), (500, 333), (224, 224), (1200, 1600), (31, 300), (300, 31), (1, 40), (7, 5)]


def decoded(data):
    return Image.open(io.BytesIO(data)).convert("RGB")


def exactly(draws):
    """Return draws that are exact in float32, torchvision's precision."""
    return [math.floor(draw * 2**20) / 2**20 for draw in draws]


@pytest.fixture
def torchvisions_box(monkeypatch):
    """Return torchvision's rule, fed with the numbers that we are fed with."""
    transforms, torch = torchvision().transforms, pytest.importorskip("torch")

    def box(shape, draws):
        left = iter(draws)
        monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, a, b: self.fill_(a + (b - a) * next(left)))
        monkeypatch.setattr(torch, "randint", lambda low, high, size: torch.tensor([int(next(left) * high)]))
        return transforms.RandomResizedCrop.get_params(torch.zeros(3, *shape), list(AREA), list(RATIO))

    return box


def test_random_parts_are_torchvisions(torchvisions_box):
    same = 0
    for seed in range(50):
        for shape in SHAPES:
            draws = exactly(uniform_draws([seed, *shape], DRAWS))
            # A part that did not fit takes two numbers of torchvision's, and four of ours.
            theirs, at = [], 0
            while at < DRAWS - 1:
                theirs += draws[at : at + 2] + (draws[at + 2 : at + 4] if fits(shape, *draws[at : at + 2]) else [])
                at += 4
            ours, wanted = random_box(shape, draws, AREA, RATIO), torchvisions_box(shape, theirs)
            # torchvision works the logarithm of the ratio out in float32: at most a pixel of rounding.
            assert np.abs(np.subtract(ours, wanted)).max() <= 1, (shape, seed)
            same += ours == tuple(wanted)
    assert same >= 395


def fits(shape, area, ratio):
    pixels = shape[0] * shape[1] * (AREA[0] + (AREA[1] - AREA[0]) * area)
    aspect = math.exp(math.log(RATIO[0]) + (math.log(RATIO[1]) - math.log(RATIO[0])) * ratio)
    return 0 < round(math.sqrt(pixels * aspect)) <= shape[1] and 0 < round(math.sqrt(pixels / aspect)) <= shape[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_random_parts_lie_within_the_image(shape):
    for seed in range(200):
        top, left, height, width = random_box(shape, uniform_draws([seed], DRAWS), AREA, RATIO)
        assert top >= 0
        assert left >= 0
        assert height >= 1
        assert width >= 1
        assert top + height <= shape[0]
        assert left + width <= shape[1]


def test_area_and_ratio_are_spread_as_they_should_be():
    shape = (1000, 1000)
    boxes = np.array([random_box(shape, uniform_draws([n], DRAWS), (0.2, 0.6), RATIO) for n in range(4000)])
    part = boxes[:, 2] * boxes[:, 3] / 1e6
    aspect = np.log(boxes[:, 3] / boxes[:, 2])
    # Kolmogorov's distance from uniform; 1.95 over the root of 4,000 is one in a thousand.
    for values, low, high in ((part, 0.2, 0.6), (aspect, math.log(3 / 4), math.log(4 / 3))):
        scaled = np.sort((values - low) / (high - low))
        assert np.abs(scaled - (np.arange(4000) + 0.5) / 4000).max() < 1.95 / math.sqrt(4000)
    assert abs(np.corrcoef(part, aspect)[0, 1]) < 0.06
    room = boxes[:, :2] / (1000 - boxes[:, 2:] + 1)
    assert np.abs(np.quantile(room, [0.1, 0.5, 0.9], axis=0).T - [0.1, 0.5, 0.9]).max() < 0.03


@pytest.mark.parametrize("size", [(375, 500), (40, 31), (64, 64), (500, 333)])
@pytest.mark.parametrize(("cut", "resize"), [((224, 224), 256), ((32, 24), 41)])
def test_evaluation_is_torchvisions_resize_and_centre_crop(size, cut, resize):
    transforms = torchvision().transforms
    data = jpeg(picture(size))
    wanted = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(cut)])(decoded(data))
    image = evaluation_image("x", data, Crops(size=cut, resize=resize), 3)
    np.testing.assert_array_equal(image, np.asarray(wanted))


def test_without_a_resize_size_images_are_cut_as_in_memory(tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(jpeg(picture((50, 90))))
    for crops in (Crops(size=(20, 30)), Crops(size=(20, 30), upright=False)):
        image = training_image(path, None, crops, 3, [0.1] * DRAWS)
        np.testing.assert_array_equal(image, read_image(path, (20, 30, 3))[0])


@pytest.mark.parametrize("mirrored", [True, False])
def test_a_random_part_is_pillows_crop_and_resize(mirrored):
    data = jpeg(picture((60, 80)))
    draws = [*uniform_draws([5], DRAWS - 1), 0.4999 if mirrored else 0.5]
    top, left, height, width = random_box((60, 80), draws, AREA, RATIO)
    wanted = decoded(data).crop((left, top, left + width, top + height)).resize((64, 48), Image.BILINEAR)
    image = training_image("x", data, Crops(size=(48, 64), random=True), 3, draws)
    np.testing.assert_array_equal(image, np.asarray(wanted)[:, :: -1 if mirrored else 1])


def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same():
    data = jpeg(picture((800, 1000)))
    errors = []
    for seed in range(6):
        draws = uniform_draws([seed], DRAWS)
        top, left, height, width = random_box((800, 1000), draws, AREA, RATIO)
        wanted = decoded(data).crop((left, top, left + width, top + height)).resize((32, 32), Image.BILINEAR)
        image = training_image("x", data, Crops(size=(32, 32), random=True), 3, draws)
        wanted = np.asarray(wanted, float)[:, :: -1 if draws[-1] < 0.5 else 1]
        errors.append(np.abs(image - wanted).mean())
        # A part one pixel to the side would differ by more than this.
        moved = np.abs(wanted[:, 1:] - wanted[:, :-1]).mean()
        assert errors[-1] < moved / 2
    assert 0 < max(errors) < 1.5


@pytest.mark.parametrize("random", [True, False])
@pytest.mark.parametrize("upright", [True, False])
def test_exif_turns_only_where_it_is_asked_to(random, upright):
    image = picture((50, 90))
    exif = image.getexif()
    exif[0x0112] = 6  # as it is meant to be seen, 90 high and 50 wide
    turned = Image.open(io.BytesIO(jpeg(image, exif=exif))).transpose(Image.Transpose.ROTATE_270)
    meant = jpeg(image, exif=exif)
    draws = [0.999, 0.5, 0.5, 0.5] * 10 + [0.9]
    crops = Crops(size=(40, 40), resize=44, random=random, upright=upright)
    done = training_image("x", meant, crops, 3, draws)
    plain = io.BytesIO()
    (turned if upright else Image.open(io.BytesIO(meant))).save(plain, "PNG", exif=b"")
    np.testing.assert_array_equal(done, training_image("x", plain.getvalue(), crops, 3, draws))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_becomes_the_channels_that_are_asked_for(mode, channels):
    data = jpeg(picture((50, 40), mode=mode))
    for random in (True, False):
        image = training_image("x", data, Crops(size=(16, 12), resize=16, random=random), channels, [0.3] * DRAWS)
        assert image.shape == (16, 12, channels)
        assert image.dtype == np.uint8
        assert image.std() > 5
    if mode == "L" and channels == 3:
        assert (image[..., 0] == image[..., 1]).all()


def test_a_very_long_image_takes_no_more_memory_than_others():
    data = io.BytesIO()
    Image.new("L", (60000, 1)).save(data, "PNG")
    assert evaluation_image("x", data.getvalue(), Crops(size=(224, 224), resize=256), 3).shape == (224, 224, 3)


def test_damaged_images_are_named():
    data = jpeg(picture((60, 80)))
    for broken, said in ((data[:-900], "truncated"), (b"hello", "not an image"), (b"", "not an image")):
        for random in (True, False):
            with pytest.raises(CnnjaxError, match=f"^train example 3 .a.JPEG.: .*{said}") as caught:
                training_image(
                    "train example 3 (a.JPEG)", broken, Crops(size=(24, 24), random=random), 3, [0.5] * DRAWS
                )
            assert "\n" not in str(caught.value)


def test_other_sizes_keep_the_proportion():
    crops = Crops(size=(224, 224), resize=256, random=True)
    assert crops.resized((112, 112)) == Crops(size=(112, 112), resize=128, random=True)
    assert Crops(size=(8, 8)).resized((4, 6)) == Crops(size=(4, 6))
    with pytest.raises(UsageError, match=r"resize size: expected at least 224 pixels, .* got 200"):
        Crops(size=(224, 100), resize=200)
