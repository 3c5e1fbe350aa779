"""ImageNet's archives in small: of archives, and of numbered files."""

import hashlib
import io
import tarfile

import pytest

from cnnjax.data import imagenet, load_dataset, named_sets, prepare
from cnnjax.data.sources import RemoteFile
from cnnjax.errors import CnnjaxError
from tests.data import photos

CLASSES = imagenet.entry().class_names
TRAIN, VALIDATION = imagenet.FILES["train"].name, imagenet.FILES["validation"].name
TRAINING = [
    (f"{CLASSES[label]}_{number}.JPEG", data, label) for number, (_, data, label) in enumerate(photos.examples(9))
]
TESTING = [
    (f"ILSVRC2012_val_{number:08d}.JPEG", data, CLASSES.index(imagenet.validation_labels()[number - 1]))
    for number, (_, data, _) in enumerate(photos.examples(5, seed=1), 1)
]


def tar_of(files):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return archive.getvalue()


def training_tar(prefix=""):
    labels = sorted({label for _, _, label in TRAINING})
    inner = [
        (f"{prefix}{CLASSES[label]}.tar", tar_of([(name, data) for name, data, own in TRAINING if own == label]))
        for label in labels
    ]
    return tar_of(inner)


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """Return a folder with both archives; what they must be, and how many examples there are, is known of them."""
    folder = tmp_path / "archives"
    folder.mkdir()
    contents = {TRAIN: training_tar(), VALIDATION: tar_of([(name, data) for name, data, _ in TESTING])}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    expect(monkeypatch, contents)
    entry = photos.entry({"train": TRAINING, "validation": TESTING}, validation=2)
    monkeypatch.setitem(named_sets._ENTRIES, "imagenet2012", lambda: entry)
    return folder


def expect(monkeypatch, contents):
    for split, name in (("train", TRAIN), ("validation", VALIDATION)):
        if name in contents:
            known = RemoteFile(name, len(contents[name]), hashlib.sha256(contents[name]).hexdigest())
            monkeypatch.setitem(imagenet.FILES, split, known)


def stored(split):
    return [split.source.fetch(int(place)) for place in split.places]


def test_what_is_prepared_is_what_tfds_prepares(archives, tmp_path, capfd):
    path = prepare("imagenet2012", data_dir=tmp_path / "ours", source_dir=archives)
    assert path == tmp_path / "ours" / "imagenet2012" / "5.1.0"
    assert capfd.readouterr().out == ""
    photos.write_imagenet(tmp_path / "theirs", {"train": TRAINING, "validation": TESTING})
    ours, theirs = (load_dataset("imagenet2012", data_dir=tmp_path / name) for name in ("ours", "theirs"))
    for name in ("train", "validation", "test"):
        assert [example[1:] for example in stored(getattr(ours, name))] == [
            example[1:] for example in stored(getattr(theirs, name))
        ]
    assert sorted(example.id for example in stored(ours.test)) == [name for name, _, _ in TESTING]
    assert ours.info.source.startswith(f"{path} (made from {TRAIN} and {VALIDATION}; read as needed")
    assert sorted(file.name for file in path.parent.iterdir()) == ["5.1.0"]
    for name in ("features.json", "label.labels.txt"):
        assert (path / name).read_bytes() == (tmp_path / "theirs" / "imagenet2012" / "5.1.0" / name).read_bytes()


def test_loading_prepares_what_is_not_prepared_and_tells_of_it(archives, tmp_path):
    lines = []
    for _ in range(2):
        data = load_dataset("imagenet2012", data_dir=tmp_path / "data", source_dir=archives, log=lines.append)
        assert (len(data.train), len(data.validation), len(data.test)) == (7, 2, 5)
    assert lines == [f"writing train and validation to {tmp_path}/data/imagenet2012/5.1.0"]


def test_the_validation_archive_alone_is_enough_to_test_on(archives, tmp_path):
    (archives / TRAIN).unlink()
    data = load_dataset("imagenet2012", data_dir=tmp_path / "data", source_dir=archives)
    assert (len(data.train), len(data.test)) == (0, 5)


def cut(data):
    return data[:-512]


def flip(data):
    place = data.index(b"\xff\xd8") + 300
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("name", "change", "known", "message"),
    [
        (TRAIN, cut, False, r"expected [\d,]+ bytes, got [\d,]+. Fetch it again"),
        (TRAIN, flip, False, "damaged archive .sha256 .*Fetch it again"),
        (VALIDATION, flip, False, "damaged archive .sha256 .*Fetch it again"),
        (TRAIN, lambda data: training_tar("x"), True, "expected an archive a class, such as .*, got 'xn"),
        (TRAIN, lambda data: tar_of([(f"{CLASSES[0]}.tar", b"no archive")]), True, "damaged archive .*Fetch it again"),
        (VALIDATION, lambda data: tar_of([("cat.JPEG", b"x")]), True, "expected files such as .*, got 'cat.JPEG'"),
        (VALIDATION, lambda data: b"no archive at all" * 100, True, "damaged archive .*Fetch it again"),
    ],
)
def test_wrong_archives_are_named_and_leave_nothing(archives, tmp_path, monkeypatch, name, change, known, message):
    data = change((archives / name).read_bytes())
    (archives / name).write_bytes(data)
    if known:
        expect(monkeypatch, {name: data})
    with pytest.raises(CnnjaxError, match=f"^{archives / name}: {message}") as caught:
        prepare("imagenet2012", data_dir=tmp_path / "data", source_dir=archives)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_a_folder_without_archives(archives, tmp_path):
    for file in archives.iterdir():
        file.unlink()
    with pytest.raises(CnnjaxError, match=f"^{archives}: expected {TRAIN} or {VALIDATION}, got neither"):
        prepare("imagenet2012", data_dir=tmp_path / "data", source_dir=archives)


def test_sizes_and_digests_are_those_that_tfds_knows():
    import pathlib

    import tensorflow_datasets as tfds

    listed = pathlib.Path(str(tfds.core.tfds_path("datasets/imagenet2012/checksums.tsv"))).read_text().splitlines()
    known = {pathlib.PurePosixPath(line.split()[0]).name: tuple(line.split()[1:3]) for line in listed}
    for file in imagenet.FILES.values():
        assert known[file.name] == (str(file.size), file.sha256)
    assert len(imagenet.validation_labels()) == 50000
    assert set(imagenet.validation_labels()) == set(CLASSES)
