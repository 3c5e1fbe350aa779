"""Which image of a folder is for what, over many random trees; the rule is worked out here again with hashlib alone."""

import hashlib
import shutil

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import load_dataset, load_folder, resolve
from cnnjax.data.dataset import SPLITS
from cnnjax.data.folder_layout import divide, list_files, scan
from cnnjax.errors import UsageError

NAMES = ["cat", "dog", "Hund ä", "a b", "x.y", "-n", "owl\u3042", "train", "test", "'q'"]


def write(path, seed, size=(3, 2)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, path.suffix[1:].upper())
    return path


def place(path):
    return int.from_bytes(hashlib.sha256(path.read_bytes()).digest()[:8], "big") / 2**64


def sides(top, **options):
    """Return the split of each image, by its path, decoding none."""
    _, listed = list_files(top)
    parts, _ = divide(scan(top, listed), options.get("test_fraction"), options.get("validation"))
    return {file.path: part for part in SPLITS for file in parts[part]}


def split_of(data):
    return {text: s.name for s in (data.train, data.validation, data.test) for text in s.ids}


def make_tree(top, rng, sizes):
    """Write a tree of 2 to 4 classes, some images of it twice, and return its files."""
    files, made = [], []
    for name in rng.choice(NAMES, rng.integers(2, 5), replace=False).tolist():
        for number in range(rng.integers(1, 9)):
            suffix = ("png", "bmp", "ppm")[rng.integers(3)]
            path = top / name / f"{('', 'IMG ', '#')[rng.integers(3)]}{number}.{suffix}"
            if made and rng.random() < 0.1:
                path = path.with_suffix(made[-1].suffix)
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(made[rng.integers(len(made))], path)
            else:
                made.append(write(path, rng.integers(2**32), sizes[rng.integers(len(sizes))]))
            files.append(path)
    return files


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_an_image_keeps_its_side_in_random_trees(tmp_path, seed):
    """Whatever else is added, taken away, renamed or moved, and however images are cut: 100 trees a seed."""
    rng = np.random.default_rng(seed)
    for number in range(100):
        top = tmp_path / str(number)
        files = make_tree(top, rng, [(3, 2), (2, 5), (4, 4)])
        before = sides(top)
        for path in files:
            wanted = "test" if place(path) < 0.15 else "validation" if place(path) >= 0.85 else "train"
            assert before[str(path.relative_to(top))] == wanted
        gone = files[rng.integers(len(files))]
        if len(list(gone.parent.iterdir())) > 1:
            gone.unlink()
        write(top / files[0].parent.name / "new.png", rng.integers(2**32))
        write(top / "zebra" / "new.png", rng.integers(2**32))
        renamed = files[-1].with_name(f"renamed{files[-1].suffix}")
        was = before[str(files[-1].relative_to(top))]
        if files[-1].exists():
            files[-1].rename(renamed)
            before[str(renamed.relative_to(top))] = was
        moved = tmp_path / f"moved{number}"
        top.rename(moved)
        after = sides(moved)
        assert {p: side for p, side in before.items() if p in after} == {p: after[p] for p in before if p in after}
        assert len(set(after) - set(before)) == 2
        if "train" in after.values():
            how = {"image_size": int(rng.integers(1, 9)), "random_crop": bool(rng.integers(2))}
            assert split_of(load_folder(moved, **how)) == after


@pytest.mark.parametrize("seed", range(4))
def test_neither_size_nor_crop_nor_kind_of_reading_changes_sides(tmp_path, seed):
    rng = np.random.default_rng(100 + seed)
    make_tree(tmp_path, rng, [(3, 2), (9, 5), (2, 7)])
    wanted = sides(tmp_path)
    if not {"train"} <= set(wanted.values()):
        pytest.skip("no training image")
    for options in ({"image_size": 4}, {"image_size": (9, 2)}, {"image_size": 8, "random_crop": True}, {"channels": 1}):
        data = load_folder(tmp_path, **{"image_size": 5, **options})
        assert split_of(data) == wanted
        for split in (data.train, data.test):
            assert [data.info.class_names[label] for label in split.labels] == [t.split("/")[0] for t in split.ids]


def test_each_class_gives_about_the_same_part(tmp_path):
    for name, count in (("a", 400), ("b", 100), ("c", 40)):
        for number in range(count):
            write(tmp_path / name / f"{number}.bmp", hash_of(name, number))
    found = sides(tmp_path)
    for name, count in (("a", 400), ("b", 100), ("c", 40)):
        for part in ("test", "validation"):
            number = sum(side == part for path, side in found.items() if path.startswith(name))
            assert abs(number - 0.15 * count) < 3 * (count * 0.15 * 0.85) ** 0.5  # three deviations of a binomial


def test_a_number_of_validation_images_is_of_all_classes(tmp_path):
    for name, count in (("a", 20), ("b", 20), ("c", 20), ("d", 40)):
        for number in range(count):
            write(tmp_path / "train" / name / f"{number}.bmp", number + ord(name) * 1000)
            write(tmp_path / "test" / name / f"{number}.bmp", number + ord(name) * 5000)
    for number, each in ((5, [1, 1, 1, 2]), (10, [2, 2, 2, 4]), (50, [10, 10, 10, 20])):
        data = load_folder(tmp_path, validation=number)
        assert np.bincount(data.validation.labels, minlength=4).tolist() == each
        assert len(data.train) == 100 - number
    small, large = (set(load_folder(tmp_path, validation=n).validation.ids) for n in (7, 23))
    assert small < large


@pytest.mark.parametrize(
    "folders",
    [
        ("train", "val"),
        ("train", "valid"),
        ("train", "test"),
        ("train", "val", "test"),
        ("training", "validation"),
        ("Train", "Test"),
        ("train",),
    ],
)
def test_folders_as_people_have_them(tmp_path, folders):
    said = []
    for part in folders:
        for name in ("a", "b"):
            for number in range(30):
                write(tmp_path / part / name / f"{number}.bmp", hash_of(part, name, number))
    data = load_dataset(f"folder:{tmp_path}", log=said.append)
    own = {"train": "train", "training": "train", "test": "test"} | dict.fromkeys(
        ["val", "valid", "validation"], "validation"
    )
    for part in ("validation", "test"):
        folder = next((f for f in folders if own[f.lower()] == part), None)
        ids = getattr(data, part).ids
        assert len(ids) == 60 if folder else 2 < len(ids) < 18
        assert all(text.startswith(f"{folder or folders[0]}/") for text in ids)
    assert len(split_of(data)) == 60 * len(folders)
    (line,) = said
    assert f"2 classes, train {len(data.train)} (a " in line
    assert ("divided from train by the files' content" in line) == (len(folders) < 3)


def hash_of(*words):
    return int(hashlib.sha256(repr(words).encode()).hexdigest()[:8], 16)


def test_the_same_image_on_both_sides_is_named_and_kept_on_one(tmp_path):
    for part in ("train", "test", "val"):
        for name in ("a", "b"):
            for number in range(4):
                write(tmp_path / part / name / f"{number}.bmp", hash_of(part, name, number))
    for one, other in (
        ("train/a/9.bmp", "test/a/1.bmp"),
        ("train/b/9.bmp", "val/b/2.bmp"),
        ("val/a/9.bmp", "test/b/0.bmp"),
    ):
        shutil.copy(tmp_path / other, tmp_path / one)
    said = []
    data = load_folder(tmp_path, log=said.append)
    found = split_of(data)
    assert len(found) == 24
    assert not {"train/a/9.bmp", "train/b/9.bmp", "val/a/9.bmp"} & set(found)
    said = "\n".join(said)
    assert "1 image of train left out, test has the same bytes: train/a/9.bmp is test/a/1.bmp" in said
    assert "1 image of train left out, validation has the same bytes: train/b/9.bmp is val/b/2.bmp" in said
    assert "1 image of validation left out, test has the same bytes: val/a/9.bmp is test/b/0.bmp" in said
    shutil.rmtree(tmp_path / "train")
    shutil.copytree(tmp_path / "test", tmp_path / "train")
    with pytest.raises(
        UsageError, match=r"no image is left to train on\. .*8 images of train left out, test has the same"
    ):
        load_folder(tmp_path)


def test_the_name_of_a_folder_that_is_there_means_it(tmp_path, monkeypatch):
    for number in range(40):
        write(tmp_path / "photos" / "ab"[number % 2] / f"{number}.bmp", number)
    monkeypatch.chdir(tmp_path)
    assert resolve("photos") == "folder:photos"
    assert resolve("photos?test=0.2") == "folder:photos?test=0.2"
    assert resolve("mnist") == "mnist"
    assert resolve("fotos") == "fotos"
    plain, named = (load_dataset(name) for name in ("photos", "folder:photos"))
    assert split_of(plain) == split_of(named)
    assert set(load_dataset("photos?test=0.4").test.ids) > set(plain.test.ids)


def test_a_class_without_images_on_one_side_is_said(tmp_path):
    for name, count in (("a", 40), ("b", 40), ("few", 40), ("none", 40)):
        kept = 0
        for number in range(200):
            path = write(tmp_path / name / f"{number}.bmp", hash_of(name, number))
            side = "test" if place(path) < 0.15 else "validation" if place(path) >= 0.85 else "train"
            if kept == count or (name == "none" and side != "train") or (name == "few" and side == "test"):
                path.unlink()
            else:
                kept += 1
    said = []
    data = load_folder(tmp_path, log=said.append)
    assert not np.isin(data.test.labels, [2, 3]).any()
    assert [line.removeprefix(f"folder:{tmp_path}: ") for line in said[1:]] == [
        "warning: 2 classes have no image for test: few, none. Add images, or a folder test.",
        "warning: a class has no image for validation: none. Add images, or a folder validation.",
    ]


def test_which_image_is_where_is_listed(tmp_path):
    for number in range(40):
        write(tmp_path / "ab"[number % 2] / f"{number}.bmp", number)
    data = load_folder(tmp_path)
    listed = {part: list(getattr(data, part).ids) for part in SPLITS}
    assert data.info.files == listed
    assert load_folder(tmp_path, image_size=8, random_crop=True).info.files == listed
    assert "files=" not in repr(data.info)


def test_a_class_may_be_called_as_a_split_is(tmp_path):
    for name in ("train", "plane", "test"):
        for number in range(9):
            write(tmp_path / name / f"{number}.bmp", hash_of(name, number))
    assert load_folder(tmp_path).info.class_names == ("plane", "test", "train")
