"""A folder of files with a manifest: what was written is known to the last byte, the manifest's own bytes included.

The manifest is JSON, with the size and the sha256 of each other file, and the sha256 of all of that. It is written in
one way only, so that it is compared as a whole: not even a changed space in it goes unseen.
"""

import hashlib
import json
import os
import pathlib
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from cnnjax import files

MANIFEST = "manifest.json"
_FORMAT = "cnnjax checkpoint 1"
_MAX_MANIFEST = 1 << 20


def write_files(folder: pathlib.Path, contents: Mapping[str, Iterable[bytes | memoryview]]) -> dict[str, str]:
    """Write files and their manifest, the manifest last, all of them on the disk when this returns."""
    entries: dict[str, dict[str, Any]] = {name: {} for name in contents}
    for name, pieces in contents.items():
        files.write_file(folder / name, _measured(pieces, entries[name]))
    files.write_file(folder / MANIFEST, [_manifest_bytes({"format": _FORMAT, "files": entries})])
    files.sync_folder(folder)
    return {name: entry["sha256"] for name, entry in entries.items()}


def read_files(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the bytes of each file, uint8, after comparing them with the manifest."""
    return {name: _read_verified(folder / name, **entry) for name, entry in read_manifest(folder).items()}


def read_manifest(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Return what the manifest says of each file: `bytes` and `sha256`."""
    if not folder.is_dir():
        raise FileNotFoundError(0, "it is no folder" if os.path.lexists(folder) else "it is not there")
    if not (folder / MANIFEST).exists() and (folder / "_CHECKPOINT_METADATA").exists():
        raise ValueError(f"it has an older format, Orbax's and without {MANIFEST}, which is no longer read")
    raw = _read_file(folder / MANIFEST, _MAX_MANIFEST).tobytes()
    try:
        content = json.loads(raw)
        del content["sha256"]
        known, entries = content["format"], content["files"]
        whole = _manifest_bytes(content) == raw
    except (ValueError, RecursionError, KeyError, AttributeError, TypeError):
        whole = False
    if not whole:
        raise ValueError(f"{MANIFEST} is not what was written")
    if known != _FORMAT:
        raise ValueError(f"its format is {known!r}, expected {_FORMAT!r}: another version of cnnjax wrote it")
    return entries


def _manifest_bytes(content: dict[str, Any]) -> bytes:
    sha256 = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**content, "sha256": sha256}, indent=2, sort_keys=True) + "\n").encode()


def _measured(pieces: Iterable[bytes | memoryview], entry: dict[str, Any]) -> Iterator[bytes | memoryview]:
    """Hand the pieces on, and fill in what the manifest says of them."""
    sha256, size = hashlib.sha256(), 0
    for piece in pieces:
        sha256.update(piece)
        size += len(piece)
        yield piece
    entry |= {"bytes": size, "sha256": sha256.hexdigest()}


def _read_verified(path: pathlib.Path, *, bytes: int, sha256: str) -> np.ndarray:
    content = _read_file(path, bytes)
    if content.size != bytes:
        raise ValueError(f"{path.name} has {content.size:,} bytes, expected {bytes:,}")
    if hashlib.sha256(content.data).hexdigest() != sha256:
        raise ValueError(f"{path.name} is not what was written, its sha256 is another")
    return content


def _read_file(path: pathlib.Path, limit: int) -> np.ndarray:
    """Return a file's bytes; what is no file, such as a pipe, or is longer than it can be is not read."""
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise ValueError(f"{path.name} is missing") from error
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path.name} is no file")
    if status.st_size > limit:
        raise ValueError(f"{path.name} has {status.st_size:,} bytes, expected {limit:,} at most")
    return np.fromfile(path, np.uint8)
