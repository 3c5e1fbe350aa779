"""Fetching: whole, cut off, resumed, replaced, refused; against a server on this machine."""

import hashlib
import threading

import pytest

from cnnjax.errors import CnnjaxError
from cnnjax.pretrained import download as fetching
from cnnjax.pretrained.catalogue import Published, published
from cnnjax.pretrained.download import cache_dir, download
from tests.pretrained.server import CONTENT, serving


@pytest.fixture
def server():
    with serving() as server:
        yield server


def entry(server, path="net-1234.pth", content=CONTENT, algorithm="sha256"):
    digest = hashlib.new(algorithm, content).hexdigest()
    return Published("net", f"http://127.0.0.1:{server.server_port}/{path}", algorithm, digest[:8], "none")


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_file_is_fetched_once(server, tmp_path, algorithm):
    told = []
    file = entry(server, algorithm=algorithm)
    path = download(file, cache=tmp_path / "new", progress=lambda done, whole: told.append((done, whole)))
    assert path == tmp_path / "new" / "net-1234.pth"
    assert path.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert download(file, cache=tmp_path / "new") == path
    assert server.requests == [None]


def test_a_transfer_that_was_cut_off_goes_on(server, tmp_path):
    server.limit = 300_000
    with pytest.raises(
        CnnjaxError, match=r"^net: the weights can't be fetched \(cut off 700,000 bytes .* run this again to go on\.$"
    ):
        download(entry(server), cache=tmp_path)
    assert not (tmp_path / "net-1234.pth").exists()
    assert (tmp_path / "net-1234.pth.part").stat().st_size == 300_000
    server.limit = None
    assert download(entry(server), cache=tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=300000-"]
    assert not (tmp_path / "net-1234.pth.part").exists()


def test_a_server_that_does_not_resume_sends_all_again(server, tmp_path):
    (tmp_path / "net-1234.pth.part").write_bytes(b"something else")
    server.ranges = False
    assert download(entry(server), cache=tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_already_whole_needs_no_more(server, tmp_path):
    (tmp_path / "net-1234.pth.part").write_bytes(CONTENT)
    assert download(entry(server), cache=tmp_path).read_bytes() == CONTENT


def test_other_content_is_thrown_away(server, tmp_path):
    with pytest.raises(CnnjaxError, match=r"net-1234\.pth: it is not the published file \(sha256 .*Try again"):
        download(entry(server, content=b"other"), cache=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["net-1234.pth.part.lock"]


def test_a_part_of_something_else_does_not_stay(server, tmp_path):
    (tmp_path / "net-1234.pth.part").write_bytes(b"x" * 1000)
    with pytest.raises(CnnjaxError, match="not the published file"):
        download(entry(server), cache=tmp_path)
    assert download(entry(server), cache=tmp_path).read_bytes() == CONTENT


def test_a_file_put_there_by_hand_is_verified_and_kept(server, tmp_path):
    path = tmp_path / "net-1234.pth"
    path.write_bytes(b"not it")
    with pytest.raises(CnnjaxError, match=r"it is not the published file .* Delete it, or replace it"):
        download(entry(server), cache=tmp_path)
    assert path.read_bytes() == b"not it"
    path.write_bytes(CONTENT)
    assert download(entry(server), cache=tmp_path) == path
    assert server.requests == []


def test_offline_one_message_names_the_address_and_the_place(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "_SECONDS", 1.0)
    file = Published("net", "http://127.0.0.1:9/net-1234.pth", "sha256", "00", "none")
    with pytest.raises(CnnjaxError) as caught:
        download(file, cache=tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert f"Get http://127.0.0.1:9/net-1234.pth and put it at {tmp_path / 'net-1234.pth'}" in message


def test_an_answer_of_the_server_is_said(server, tmp_path):
    with pytest.raises(CnnjaxError, match=r"the server answers 404 Not Found"):
        download(entry(server, "missing.pth"), cache=tmp_path)


def test_two_at_once_fetch_it_once(server, tmp_path):
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(download(entry(server), cache=tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 3
    assert len(server.requests) == 1


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("CNNJAX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "cnnjax" / "weights"
    monkeypatch.setenv("CNNJAX_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    assert published("resnet18").file_name == "resnet18-f37072fd.pth"
