"""Orbax's folders: what Orbax writes is read, damage and links are refused."""

import bz2
import json
import logging
import os
import resource
import zlib

import ml_dtypes
import numpy as np
import pytest

from cnnjax.pretrained import WeightsError, open_file


@pytest.fixture
def orbax():
    import orbax.checkpoint

    logging.getLogger("absl").setLevel(logging.CRITICAL)
    return orbax.checkpoint


TREE = {
    "params": {"conv": {"kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "bias": np.zeros(4, np.float32)}},
    "batch_stats": {"norm": {"mean": np.arange(3).astype(ml_dtypes.bfloat16)}},
    "step": np.int64(7),
}


def check(path):
    file = open_file(path)
    assert file.format == "orbax"
    found = {name: tensor.read() for name, tensor in file.tensors.items()}
    assert found.keys() == {"params/conv/kernel", "params/conv/bias", "batch_stats/norm/mean", "step"}
    np.testing.assert_array_equal(found["params/conv/kernel"], TREE["params"]["conv"]["kernel"])
    np.testing.assert_array_equal(found["batch_stats/norm/mean"], TREE["batch_stats"]["norm"]["mean"])
    assert found["step"] == 7


def saved(orbax, path, **options):
    with orbax.PyTreeCheckpointer(**options) as checkpointer:
        checkpointer.save(path, TREE)
    return path


@pytest.mark.parametrize("options", [{}, {"use_ocdbt": False}, {"use_zarr3": True}], ids=str)
def test_trees_of_orbax_are_read(options, orbax, tmp_path):
    check(saved(orbax, tmp_path / "a", **options))


def test_a_managers_step_is_read(orbax, tmp_path):
    with orbax.CheckpointManager(tmp_path / "run") as manager:
        manager.save(3, args=orbax.args.StandardSave(TREE))
        manager.wait_until_finished()
    check(tmp_path / "run" / "3")


def test_a_folder_of_two_trees_asks_for_one(orbax, tmp_path):
    for name in ("ema", "state"):
        saved(orbax, tmp_path / "step" / name)
    with pytest.raises(WeightsError, match="It has ema, state: name one"):
        open_file(tmp_path / "step")


def test_links_are_refused(orbax, tmp_path):
    path = saved(orbax, tmp_path / "a")
    os.symlink("/etc", path / "d" / "link")
    with pytest.raises(WeightsError, match="'link' in it is a link"):
        open_file(path)


def test_damage_is_refused(orbax, tmp_path):
    path = saved(orbax, tmp_path / "a", use_ocdbt=False)
    metadata = path / "params.conv.kernel" / ".zarray"
    intact = metadata.read_text()
    for change, message in (
        ({"shape": [10**6, 10**6, 10]}, "params/conv/kernel: claims 40000000000000 bytes"),
        ({"chunks": [10**6, 10**6, 10]}, "it claims pieces of 40000000000000 bytes"),
        ({"dtype": "|S10"}, "params/conv/kernel: "),
        ({"zarr_format": 1}, "it is missing or damaged"),
    ):
        metadata.write_text(json.dumps(json.loads(intact) | change))
        with pytest.raises(WeightsError, match=message):
            open_file(path)
    metadata.write_text(intact)
    chunk = path / "params.conv.kernel" / "0.0.0"
    stored = chunk.read_bytes()
    for broken in (None, stored[:-3], b"\0" * len(stored)):
        chunk.unlink() if broken is None else chunk.write_bytes(broken)
        with pytest.raises(WeightsError, match=f"{path}: params/conv/kernel: it is damaged"):
            open_file(path).tensors["params/conv/kernel"].read()


def bomb():
    """A quarter of a gigabyte of zeros as blosc stores it."""
    import tensorstore

    count = 1 << 28
    metadata = {"shape": [count], "chunks": [count], "dtype": "|u1", "compressor": BLOSC, "fill_value": 1}
    spec = {"driver": "zarr", "kvstore": {"driver": "memory"}, "metadata": metadata}
    array = tensorstore.open(spec, create=True).result()
    array.write(np.zeros(count, np.uint8)).result()
    return array.kvstore.read("0").result().value


BLOSC = {"id": "blosc", "cname": "zstd", "clevel": 9, "shuffle": 1, "blocksize": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compressor": BLOSC}, "found 'blosc'"),
        ({"order": "F"}, "found 'order F'"),
        ({"dtype": ">f4"}, "found 'big-endian'"),
    ],
)
def test_what_orbax_never_writes_is_refused_before_it_is_unpacked(change, message, orbax, tmp_path):
    path = saved(orbax, tmp_path / "a", use_ocdbt=False) / "params.conv.kernel"
    (path / ".zarray").write_text(json.dumps(json.loads((path / ".zarray").read_text()) | change))
    if change.get("compressor"):
        (path / "0.0.0").write_bytes(bomb())
    with pytest.raises(WeightsError, match=rf"params/conv/kernel: expected rows first, .*{message}"):
        open_file(tmp_path / "a")


@pytest.mark.parametrize("compressor", ["zlib", "bz2"])
def test_a_piece_is_unpacked_no_further_than_the_array_is_large(compressor, orbax, tmp_path):
    path = saved(orbax, tmp_path / "a", use_ocdbt=False) / "params.conv.kernel"
    change = {"compressor": {"id": compressor, "level": 9}}
    (path / ".zarray").write_text(json.dumps(json.loads((path / ".zarray").read_text()) | change))
    (path / "0.0.0").write_bytes({"zlib": zlib, "bz2": bz2}[compressor].compress(bytes(256 << 20), 9))
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    with pytest.raises(WeightsError, match="params/conv/kernel: it is damaged"):
        open_file(tmp_path / "a").tensors["params/conv/kernel"].read()
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss - before < 100 << 10  # KiB


def metadata(*keys, **options):
    entries = {key: {"key_metadata": [{"key": key}], "value_metadata": {"skip_deserialize": False}} for key in keys}
    return json.dumps({"tree_metadata": entries, **options})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "its _METADATA is damaged"),
        ("[]", "its _METADATA is damaged"),
        ('{"tree_metadata": {"a": {"key_metadata": [{"key": "x"}]}}}', "its _METADATA is damaged"),
        ("[" * 100_000, "its _METADATA is damaged"),
        (metadata("../x"), "lies outside the folder"),
        (metadata("a/../../x"), "lies outside the folder"),
        (metadata("/etc", use_ocdbt=False), "lies outside the folder"),
        (metadata("a"), "a: it is missing or damaged"),
        (metadata("a", use_ocdbt=False), "a: it is missing or damaged"),
        (metadata(), "there are no arrays in it"),
    ],
)
def test_metadata_that_lies_is_refused(content, message, tmp_path):
    (tmp_path / "_METADATA").write_text(content)
    with pytest.raises(WeightsError, match=message):
        open_file(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["_METADATA"]
