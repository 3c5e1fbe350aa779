"""Files whose bytes would become many times as many in memory: refused at once, in a process with a limit."""

import json
import struct
import subprocess
import sys
import zipfile

MEGABYTES = 150
ELSEWHERE = """
import json, pathlib, resource, sys
from cnnjax.pretrained import WeightsError, open_file  # importing takes memory, too
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]) * 2**20,) * 2)
for path in sys.argv[2:]:
    try:
        said = f"read: {len(open_file(path).tensors)}"
    except WeightsError as error:
        said = str(error)
    except BaseException as error:
        said = f"crash: {type(error).__name__}"
    print(json.dumps(said))
"""
PICKLED = (
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00X\r\x00\x00\x00little_endianq\x01\x88s."
)


def safetensors(path, header):
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def objects(path):
    safetensors(path, b"{" + b",".join(b'"%07x":{}' % n for n in range(800_000)) + b"}")


def lists(path):
    safetensors(path, b'{"a":[' + b"[]," * 2_500_000 + b"[]]}")


def metadata(path):
    safetensors(path, b'{"__metadata__":{' + b",".join(b'"%06x":""' % n for n in range(1_200_000)) + b"}}")


def dictionaries(path):
    path.write_bytes(PICKLED + b"\x80\x02" + b"}" * (3 << 20) + b".")


def zipped_lists(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"]" * (3 << 20) + b".")


def members(path):
    """An archive of nothing but a list of 350,000 members."""
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<H", 8) + bytes(16)
    listed = b"".join(entry + b"%08x" % n for n in range(350_000))
    end = b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 65535, 65535, len(listed), 4, 0)
    path.write_bytes(b"PK\x03\x04" + listed + end)


def configuration(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", bytes(100))
        archive.writestr("config.json", b"[" + b"[]," * 2_500_000 + b"[]]")


def numbers(path):
    path.write_bytes(b"\x81\xa1a\xdd" + (2_000_000).to_bytes(4, "big") + b"\x01" * 2_000_000)


def arrays(path):
    path.mkdir()
    (path / "_METADATA").write_bytes(b'{"tree_metadata":[' + b"[]," * 2_500_000 + b"[]]}")


BOMBS = {
    objects: "its header is larger than that of any file of weights",
    lists: "its header is larger",
    metadata: "its header is larger",
    dictionaries: "its pickle has more instructions than any file of weights",
    zipped_lists: "its pickle has more instructions",
    members: "its list of members takes 18,900,000 bytes",
    configuration: "its configuration is larger",
    numbers: "more than 1000000 items",
    arrays: "its _METADATA is larger",
}


def test_small_pieces_do_not_fill_the_memory(tmp_path):
    paths = [tmp_path / make.__name__ for make in BOMBS]
    for make, path in zip(BOMBS, paths, strict=True):
        make(path)
    words = [sys.executable, "-c", ELSEWHERE, str(MEGABYTES), *map(str, paths)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for line, path, message in zip(done.stdout.splitlines(), paths, BOMBS.values(), strict=True):
        said = json.loads(line)
        assert said.startswith(f"{path}: ")
        assert message in said
