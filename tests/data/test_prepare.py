import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from cnnjax.data import prepared
from cnnjax.data.formats import Examples
from cnnjax.data.prepare import prepare, verify
from cnnjax.errors import CnnjaxError
from tests.data import tiny
from tests.data.tiny import FILES, assert_same, tar_of

CONTENT = tiny.splits()


def left_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_prepared_content_is_the_sources(tmp_path):
    entry = tiny.entry(CONTENT, tiny.Source(CONTENT))
    path = prepare(entry, tmp_path, None, print)
    assert path == tmp_path / "mnist" / "3.0.1"
    content = verify(entry, prepared.read(entry, path), str(path))
    assert_same(
        {name: part for name, (part, _) in content.items()}, {n: p for n, (p, _) in verify(entry, CONTENT, "").items()}
    )
    assert {digest for _, digest in content.values()} == set(entry.digests.values())
    assert prepared.read_record(path) == {"source": "a source", "digests": dict(entry.digests)}
    assert left_in(tmp_path) == [
        "mnist",
        "mnist/3.0.1",
        "mnist/3.0.1/cnnjax.json",
        "mnist/3.0.1/dataset_info.json",
        "mnist/3.0.1/features.json",
        "mnist/3.0.1/mnist-test.array_record-00000-of-00001",
        "mnist/3.0.1/mnist-train.array_record-00000-of-00001",
    ]


def test_prepared_once(tmp_path):
    source = tiny.Source(CONTENT)
    for _ in range(2):
        prepare(tiny.entry(CONTENT, source), tmp_path, None, print)
    assert source.asked == 1


def test_nothing_is_printed(tmp_path, capfd):
    prepare(tiny.entry(CONTENT, tiny.Source(CONTENT)), tmp_path, None, lambda line: None)
    assert capfd.readouterr().out == ""


def test_sources_are_tried_in_turn_and_failures_are_told(tmp_path):
    wrong = tiny.changed(
        CONTENT, "test", lambda images, labels: images.__setitem__((3, 0, 0, 0), images[3, 0, 0, 0] ^ 1)
    )
    lines, last = [], tiny.Source(CONTENT, "third")
    entry = tiny.entry(
        CONTENT, tiny.Source(CnnjaxError("a.gz: truncated."), "first"), tiny.Source(wrong, "second"), last
    )
    prepare(entry, tmp_path, None, lines.append)
    assert lines[0] == "cannot use first: a.gz: truncated."
    assert lines[1].startswith("cannot use second: second: wrong content of the test split (digest ")
    assert last.asked == 1


def test_when_no_source_works_one_line_lists_them_all(tmp_path):
    entry = tiny.entry(
        CONTENT, tiny.Source(CnnjaxError("no network."), "first"), tiny.Source(CnnjaxError("not there."), "second")
    )
    with pytest.raises(CnnjaxError) as caught:
        prepare(entry, tmp_path / "new", None, print)
    message = str(caught.value)
    assert message.startswith(
        "mnist is not prepared and no source of it can be used. Tried: (1) first: no network; (2) second: not there."
    )
    assert "the embedded dataset digits" in message
    assert "folder:DIR" in message
    assert "\n" not in message
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("archived", [False, True])
def test_a_named_folder_is_the_only_source(tmp_path, archived):
    content, other = CONTENT, tiny.Source(CONTENT)
    (tar_of(tmp_path / "a.tgz", FILES) if archived else tiny.write(tmp_path / "raw", FILES))
    prepare(tiny.entry(content, other), tmp_path / "data", tmp_path, print)
    assert other.asked == 0


def test_a_bad_file_in_a_named_folder_is_refused_by_name(tmp_path):
    other = tiny.Source(CONTENT)
    tiny.write(tmp_path / "raw", FILES | {tiny.IDX_NAMES[1]: FILES[tiny.IDX_NAMES[1]][:-1]})
    with pytest.raises(CnnjaxError, match="train-labels-idx1-ubyte: expected 48 bytes, got 47: truncated"):
        prepare(tiny.entry(CONTENT, other), tmp_path / "data", tmp_path / "raw", print)
    assert other.asked == 0
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("split", "change", "message"),
    [
        (
            "train",
            lambda i, n: n.__setitem__(0, (n[0] + 1) % 10),
            r"wrong content of the train split \(digest \w{12}\.\.\.",
        ),
        ("test", lambda i, n: n.__setitem__(4, 10), r"label 10 of example 4 is out of range \[0, 10\)"),
        ("train", lambda i, n: n.__setitem__(2, -1), r"train: label -1 of example 2 is out of range"),
    ],
)
def test_wrong_content_is_refused(split, change, message):
    with pytest.raises(CnnjaxError, match=f"here.*{message}"):
        verify(tiny.entry(CONTENT), tiny.changed(CONTENT, split, change), "here")


def test_wrong_counts_are_refused():
    with pytest.raises(CnnjaxError, match="expected 40 train examples of mnist, got 39"):
        verify(tiny.entry(CONTENT), {**CONTENT, "train": CONTENT["train"].take(slice(1, None))}, "here")


# ---- Datasets whose digest is not known ------------------------------------------------------------------------------


def unpinned(**changes):
    """Return an entry with superclasses and without digests, and content that fits it."""
    images = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    labels = (np.arange(50) % 10).astype(np.int32)
    everything = Examples(images, labels, labels // 5)
    content = {"train": everything.take(slice(0, 40)), "test": everything.take(slice(40, 50))}
    pixels = content["train"].images.reshape(-1, 3).astype(int)
    fields = {
        "counts": tiny.COUNTS,
        "digests": None,
        "class_names": tuple("abcdefghij"),
        "coarse_names": ("low", "high"),
        "parents": (0,) * 5 + (1,) * 5,
        "moments": tuple((int(c.sum()), int((c**2).sum())) for c in pixels.T),
        "layouts": (),
    }
    return tiny.entry(content, tiny.Source(content), name="cifar100", **(fields | changes)), content


def test_without_a_known_digest_the_one_of_the_preparation_counts(tmp_path):
    entry, _ = unpinned()
    path = prepare(entry, tmp_path, None, print)
    record = prepared.read_record(path)
    first = verify(entry, prepared.read(entry, path), str(path), record)
    assert {name: digest for name, (_, digest) in first.items()} == record["digests"]
    np.testing.assert_array_equal(np.bincount(first["train"][0].coarse), [20, 20])
    flipped = prepared.read(entry, path)
    flipped["test"].images[0, 0, 0, 0] ^= 1
    with pytest.raises(CnnjaxError, match="wrong content of the test split"):
        verify(entry, flipped, str(path), record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images, labels, coarse: labels.__setitem__(0, 1), "expected 4 train examples of class a, got 3"),
        (lambda images, labels, coarse: coarse.__setitem__(0, 1), "superclass labels of the train split do not fit"),
        (
            lambda images, labels, coarse: images.__setitem__((0, 0, 0, 0), 255 - images[0, 0, 0, 0]),
            "wrong sums: not cifar100",
        ),
    ],
)
def test_without_any_digest_the_structure_is_checked(change, message):
    entry, content = unpinned()
    verify(entry, content, "here")
    arrays = [array.copy() for array in (content["train"].images, content["train"].labels, content["train"].coarse)]
    change(*arrays)
    with pytest.raises(CnnjaxError, match=message):
        verify(entry, {**content, "train": Examples(*arrays)}, "here")


# ---- Kills, companions, disks ----------------------------------------------------------------------------------------

SLOW = """
import sys, time
from pathlib import Path
from cnnjax.data.prepare import prepare
from tests.data import tiny
content = tiny.splits()
class Slow:
    title = "slow"
    def read(self, work, log):
        (work / "half").write_text("x")
        print("reading", flush=True)
        time.sleep(float(sys.argv[2]))
        return content
print(prepare(tiny.entry(content, Slow()), Path(sys.argv[1]), None, lambda line: None), flush=True)
"""


def start(folder, seconds):
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SLOW, str(folder), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_a_killed_preparation_is_cleared_by_the_next(tmp_path):
    with start(tmp_path, 60) as process:
        assert process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGKILL)
    (leftover,) = (tmp_path / "mnist").iterdir()
    assert leftover.name.startswith(".incomplete-")
    path = prepare(tiny.entry(CONTENT, tiny.Source(CONTENT)), tmp_path, None, print)
    assert list((tmp_path / "mnist").iterdir()) == [path]


def test_two_at_once_prepare_it_once(tmp_path):
    with start(tmp_path, 0.5) as first:
        assert first.stdout.readline() == "reading\n"
        source, lines = tiny.Source(CONTENT), []
        path = prepare(tiny.entry(CONTENT, source), tmp_path, None, lines.append)
        assert first.stdout.readline() == f"{path}\n"
    assert source.asked == 0
    assert lines == ["another process is preparing mnist: waiting for it"]


def test_a_waiting_one_takes_over_when_the_first_fails(tmp_path):
    with start(tmp_path, 60) as first:
        assert first.stdout.readline() == "reading\n"
        first.send_signal(signal.SIGKILL)
        source = tiny.Source(CONTENT)
        prepare(tiny.entry(CONTENT, source), tmp_path, None, print)
    assert source.asked == 1


def test_a_place_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CnnjaxError, match=rf"{tmp_path}/file/mnist/3\.0\.1: cannot be written \(Not a directory\)"):
        prepare(tiny.entry(CONTENT, tiny.Source(CONTENT)), tmp_path / "file", None, print)
