import hashlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from cnnjax.data import batches, folder, load_dataset, load_folder, load_image
from cnnjax.data.crops import Crops
from cnnjax.data.order import stream_indices
from cnnjax.data.streamed import StreamedSplit
from cnnjax.errors import CnnjaxError, UsageError

RNG = np.random.default_rng(0)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path)


def noise(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def place(path):
    return int(hashlib.sha256(path.read_bytes()).hexdigest()[:16], 16) / 2**64


def sides(data):
    """Return the split of each image, by its path."""
    return {text: s.name for s in (data.train, data.validation, data.test) for text in s.ids}


def ids(data):
    return sorted(sides(data))


@pytest.fixture
def divided(tmp_path):
    """Return a folder with train and test, two classes, ten and three images of each."""
    for part, count in (("train", 10), ("test", 3)):
        for name in ("dog", "cat"):
            for number in range(count):
                save(tmp_path / part / name / f"{number}.png", noise(6, 5, 3))
    return tmp_path


@pytest.fixture
def whole(tmp_path):
    """Return a folder with two classes of ten grey images."""
    for name in ("b", "a"):
        for number in range(10):
            save(tmp_path / name / f"{number}.png", noise(6, 5))
    return tmp_path


def test_train_and_test_folders(divided):
    data = load_dataset(f"folder:{divided}")
    assert data.info.class_names == ("cat", "dog")
    assert data.info.num_classes == 2
    assert data.info.image_shape == data.train.image_shape == (6, 5, 3)
    assert (len(data.train) + len(data.validation), len(data.test)) == (20, 6)
    assert data.info.source == f"26 image files in {divided}"
    everything = [*data.train.ids, *data.validation.ids]
    assert sorted(everything) == sorted(f"train/{name}/{n}.png" for name in ("cat", "dog") for n in range(10))
    for split in (data.train, data.validation, data.test):
        for image, label, path in zip(split.images, split.labels, split.ids):
            assert data.info.class_names[label] == path.split("/")[1]
            with Image.open(divided / path) as file:
                np.testing.assert_array_equal(image, np.array(file))


@pytest.mark.parametrize("name", ["val", "validation", "valid"])
def test_a_validation_folder_is_the_validation_split(divided, name):
    for number in range(4):
        save(divided / name / "dog" / f"{number}.png", noise(6, 5, 3))
    data = load_folder(divided)
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 4, 6)
    assert sorted(data.validation.ids) == [f"{name}/dog/{n}.png" for n in range(4)]
    assert set(data.validation.labels.tolist()) == {1}  # dog, though no cat is there
    with pytest.raises(UsageError, match="has a validation folder of its own"):
        load_folder(divided, validation=3)


def test_statistics_are_the_training_images(divided):
    data = load_folder(divided)
    images = np.concatenate([data.train.images, data.validation.images]) / 255
    np.testing.assert_allclose(data.info.mean, images.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(data.info.std, images.std((0, 1, 2)), rtol=1e-12)
    assert data.test.mean == data.info.mean


def test_order_does_not_depend_on_names_of_files_or_folders(divided, tmp_path_factory):
    moved = tmp_path_factory.mktemp("moved")
    for path in divided.rglob("*.png"):
        target = moved / path.relative_to(divided).with_name(f"x{9 - int(path.stem)}.png")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    one, two = load_folder(divided), load_folder(moved)
    assert one.info.digests == two.info.digests
    np.testing.assert_array_equal(one.train.images, two.train.images)
    np.testing.assert_array_equal(one.test.labels, two.test.labels)


@pytest.mark.parametrize("spec", ["folder:{}?test=0.2", "folder:{}/?test=.2"])
def test_stated_fraction(whole, spec):
    data = load_dataset(spec.format(whole), validation=0)
    wanted = {f"{n}/{i}.png" for n in "ab" for i in range(10) if place(whole / n / f"{i}.png") < 0.2}
    assert set(data.test.ids) == wanted
    assert (len(data.train), len(data.validation)) == (20 - len(wanted), 0)
    assert not set(data.test.ids) & set(data.train.ids)
    assert data.info.image_shape == (6, 5, 1)


def test_validation_is_taken_out_of_training(whole):
    small, large = (load_folder(whole, test_fraction=0.2, validation=n) for n in (3, 5))
    assert small.validation.ids == large.validation.ids[:3]
    assert small.test.ids == large.test.ids
    assert sorted([*small.train.ids, *small.validation.ids]) == sorted([*large.train.ids, *large.validation.ids])


def test_grey_and_colour_together_are_colour(divided):
    for part in ("train", "test"):
        save(divided / part / "cat" / "grey.png", noise(6, 5))
    assert load_folder(divided).info.image_shape == (6, 5, 3)
    assert load_folder(divided, channels=1).info.image_shape == (6, 5, 1)


def test_hidden_files_are_left_out(divided):
    (divided / "train" / "cat" / ".DS_Store").write_text("x")
    (divided / "train" / "cat" / "Thumbs.db").write_text("x")
    (divided / "train" / ".ipynb_checkpoints").mkdir()
    (divided / ".git").mkdir()
    assert load_folder(divided).info.num_classes == 2


def test_sizes_that_differ_need_a_stated_size(divided):
    save(divided / "train" / "dog" / "large.jpg", noise(20, 40, 3))
    with pytest.raises(UsageError, match=r"differ in size \(train/cat/0.png is 5×6, train/dog/large.jpg is 40×20\)"):
        load_folder(divided)
    assert load_folder(divided, choose_size=lambda: (7, 9)).train.image_shape == (7, 9, 3)
    data = load_folder(divided, image_size=8, validation=0, choose_size=lambda: pytest.fail("a size is given"))
    assert data.info.image_shape == (8, 8, 3)
    assert data.train.image_size is None
    for image, path in zip(data.train.images, data.train.ids):
        np.testing.assert_array_equal(image, load_image(divided / path, (8, 8, 3))[0])


@pytest.mark.parametrize(("size", "stored"), [((12, 10), (6, 5, 3)), ((3, 2), (3, 2, 3)), ((6, 5), (6, 5, 3))])
def test_enlarging_is_left_to_the_device(divided, size, stored):
    data = load_folder(divided, image_size=size)
    assert data.info.image_shape == stored
    assert data.test.image_shape == (*size, 3)
    assert next(batches(data.test, 2)).image.shape == (2, *size, 3)


def test_a_size_is_chosen_only_where_sizes_differ(divided):
    load_folder(divided, choose_size=lambda: pytest.fail("images are of one size"))


def test_exif_turns_before_sizes_are_compared(divided):
    image = Image.fromarray(noise(5, 6, 3))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(divided / "test" / "cat" / "turned.png", exif=exif)
    assert load_folder(divided).info.image_shape == (6, 5, 3)


def break_image(top):
    path = top / "train" / "dog" / "3.png"
    path.write_bytes(path.read_bytes()[:60])


def text_file(top):
    (top / "test" / "dog" / "notes.txt").write_text("hello")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (break_image, CnnjaxError, "/train/dog/3.png: "),
        (text_file, CnnjaxError, "/test/dog/notes.txt: not an image"),
        (lambda top: (top / "test" / "owl").mkdir(), UsageError, "class owl is in test but not in train"),
        (lambda top: shutil.rmtree(top / "test" / "cat"), UsageError, "class cat is in train but not in test"),
        (lambda top: (shutil.rmtree(top / "test"), (top / "test").mkdir()), UsageError, "class cat is in train but"),
        (
            lambda top: [p.unlink() for p in (top / "train" / "cat").iterdir()],
            UsageError,
            "train/cat: the class is empty",
        ),
        (
            lambda top: [shutil.rmtree(p / c) for p in top.iterdir() for c in ("cat", "dog")],
            UsageError,
            "train: expected at least two folders, one a class, got 0",
        ),
        (
            lambda top: [shutil.rmtree(top / part / "cat") for part in ("train", "test")],
            UsageError,
            "expected at least two folders, one a class, got 1",
        ),
        (lambda top: (top / "train" / "cat" / "more").mkdir(), UsageError, "train/cat/more: a folder within a class"),
        (lambda top: (top / "extra").mkdir(), UsageError, "got extra too"),
        (lambda top: [(top / p).mkdir() for p in ("val", "validation")], UsageError, "got val beside validation too"),
        (lambda top: shutil.rmtree(top / "train"), UsageError, "has a folder test but no folder train"),
        (lambda top: [shutil.rmtree(p) for p in list(top.iterdir())], UsageError, "expected one folder a class"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(divided, change, kind, message):
    change(divided)
    with pytest.raises(kind, match=f"^{divided}.*{message}") as caught:
        load_folder(divided)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_fraction": 1.0}, "must lie between 0 and 1, got 1.0"),
        ({"test_fraction": 0.9999}, "no image is left to train on"),
        ({"test_fraction": 0.2, "validation": 20}, r"expected 0 to \d+ examples of .*'s \d+ training examples, got 20"),
        ({"test_fraction": 0.2, "validation": -1}, "got -1"),
        ({"test_fraction": 0.2, "channels": 2}, "channels: expected 1 or 3, got 2"),
        ({"test_fraction": 0.2, "image_size": 0}, "at least 1 pixel a side"),
    ],
)
def test_wrong_options(whole, options, message):
    with pytest.raises(UsageError, match=message):
        load_folder(whole, **options)


def test_a_fraction_where_there_is_a_test_folder(divided):
    with pytest.raises(UsageError, match="has a test folder of its own"):
        load_folder(divided, test_fraction=0.2)


@pytest.mark.parametrize(
    "spec", ["folder:", "folder:x?test=much", "folder:x?part=0.2", "folder:x?0.2", "folder:x?test=0.2,crop=no"]
)
def test_wrong_specs(spec):
    with pytest.raises(UsageError, match=r"expected (folder:DIR or|a folder after)"):
        load_dataset(spec)


def test_no_such_folder():
    with pytest.raises(CnnjaxError, match="/no/such: no such folder"):
        load_dataset("folder:/no/such")


def test_a_question_mark_in_a_folders_name(tmp_path):
    for part, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
        save(tmp_path / "why?" / part / name / "1.png", noise(2, 2))
    assert len(load_dataset(f"folder:{tmp_path}/why?").test) == 2


def test_too_many_images_for_memory_are_streamed_to_the_same_pixels(whole, monkeypatch):
    resident = load_folder(whole, test_fraction=0.2, image_size=4)
    monkeypatch.setattr(folder, "MOST_BYTES", 4 * 4 * 20)
    assert not isinstance(load_folder(whole, test_fraction=0.2, image_size=4).train, StreamedSplit)
    monkeypatch.setattr(folder, "MOST_BYTES", 4 * 4 * 20 - 1)
    data = load_folder(whole, test_fraction=0.2, image_size=4)
    assert isinstance(data.train, StreamedSplit)
    assert data.info.source == f"20 image files in {whole}, read as needed"
    assert data.info.image_shape == data.train.image_shape == (4, 4, 1)
    pixels = {
        text: im for s in (resident.train, resident.validation, resident.test) for text, im in zip(s.ids, s.images)
    }
    for split in (data.train, data.validation, data.test):
        for train in (False, True):
            walk = batches(split, len(split), key=jax.random.key(0), train=train)
            (batch,) = walk
            back = np.array(batch.image) * data.info.std[0] + data.info.mean[0]
            wanted = np.stack([pixels[text] for text in split.ids]) / 255
            order = np.arange(len(split)) if not train else stream_indices(len(split), len(split), 0, jax.random.key(0))
            np.testing.assert_allclose(back, wanted[order], atol=1e-6)
            np.testing.assert_array_equal(batch.label, [text[0] == "b" for text in np.array(split.ids)[order]])
    # All training images are in the sample, so that their statistics are those of a set in memory.
    training = np.stack([pixels[text] for s in (data.train, data.validation) for text in s.ids]) / 255
    np.testing.assert_allclose((data.info.mean[0], data.info.std[0]), (training.mean(), training.std()), rtol=1e-12)


def test_random_parts_are_streamed_however_few(whole):
    data = load_dataset(f"folder:{whole}?test=0.2,crop=random", image_size=8, validation=3)
    assert len(data.validation) == 3
    assert set(data.test.ids) == {t for t in ids(data) if place(whole / t) < 0.2}
    assert data.train.crops == Crops(size=(8, 8), resize=9, random=True)
    assert load_dataset(f"folder:{whole}?crop=random,test=0.2", resize_size=12).train.crops.resize == 12
    everything = [*data.train.ids, *data.validation.ids, *data.test.ids]
    assert sorted(everything) == sorted(f"{name}/{n}.png" for name in "ab" for n in range(10))
    key = jax.random.key(0)
    one, two = (np.array(next(batches(data.train, 10, key=key, train=True, epoch=e)).image) for e in (0, 1))
    assert not np.array_equal(np.sort(one, axis=0), np.sort(two, axis=0))


def test_what_is_put_aside_of_a_streamed_folder_follows_from_the_content(whole, tmp_path_factory):
    def divided(top):
        return load_folder(top, test_fraction=0.2, random_crop=True)

    moved = tmp_path_factory.mktemp("moved") / "there"
    before = divided(whole)
    shutil.copytree(whole, moved)
    after = divided(moved)
    assert (after.test.ids, after.validation.ids) == (before.test.ids, before.validation.ids)
    assert after.info.digests == before.info.digests
    save(moved / "a" / "new.png", noise(6, 5))
    grown = divided(moved)
    assert set(before.test.ids) <= set(grown.test.ids)
    assert grown.info.digests["train"] != before.info.digests["train"]


def test_streamed_folders_of_train_validation_and_test(divided):
    for number in range(4):
        save(divided / "val" / "dog" / f"{number}.png", noise(6, 5, 3))
    data = load_folder(divided, random_crop=True)
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 4, 6)
    assert sorted(data.validation.ids) == [f"val/dog/{n}.png" for n in range(4)]
    assert set(data.validation.labels.tolist()) == {1}
    with pytest.raises(UsageError, match=r"expected 0 to \d+ examples of .*'s \d+ training examples, got 20"):
        load_folder(divided / "train", test_fraction=0.2, validation=20, random_crop=True)


def test_a_damaged_file_of_a_streamed_folder_is_named(divided):
    path = divided / "test" / "dog" / "1.png"
    data = load_folder(divided, random_crop=True)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(CnnjaxError, match=f"^{path}: "):
        list(batches(data.test, 2))
    path.unlink()
    with pytest.raises(CnnjaxError, match=f"^{path}: cannot be read .No such file"):
        list(batches(data.test, 2))


def test_a_size_to_cut_from_needs_streaming(whole):
    for read in (load_folder, load_dataset):
        name = whole if read is load_folder else f"folder:{whole}?test=0.2"
        options = {"test_fraction": 0.2} if read is load_folder else {}
        with pytest.raises(UsageError, match=r"resize size: .* is kept in memory at one size"):
            read(name, resize_size=12, **options)
    with pytest.raises(UsageError, match="resize size: digits is kept in memory"):
        load_dataset("digits", resize_size=12)
