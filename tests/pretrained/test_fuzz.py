"""Damaged files of every format: each is read as it was, with other values at most, or refused in one line."""

import logging
import shutil

import numpy as np
import pytest
from flax import serialization

from tests.pretrained.fuzz import SECONDS, mutations, run

COUNT = 600


def state():
    """Six small tensors as a net has them, float32."""
    random = np.random.default_rng(0)
    shapes = {
        "conv1.weight": (4, 3, 3, 3),
        "bn1.weight": (4,),
        "bn1.bias": (4,),
        "bn1.running_mean": (4,),
        "bn1.running_var": (4,),
        "fc.weight": (5, 4),
    }
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def write(form, path):
    if form == "msgpack":
        path.write_bytes(serialization.to_bytes({"params": state()}))
    elif form == "safetensors":
        from cnnjax.pretrained import save

        save({"params": state()}, path)
    elif form.startswith("orbax"):
        import orbax.checkpoint

        logging.getLogger("absl").setLevel(logging.CRITICAL)
        options = {"orbax": {}, "orbax zarr": {"use_ocdbt": False}, "orbax zarr3": {"use_zarr3": True}}[form]
        with orbax.checkpoint.PyTreeCheckpointer(**options) as checkpointer:
            checkpointer.save(path, {"params": {name.replace(".", "_"): value for name, value in state().items()}})
        for part in path.glob("ocdbt.process_*"):  # what it was put together from, and nobody reads
            shutil.rmtree(part)
    else:
        torch = pytest.importorskip("torch")
        tensors = {name: torch.tensor(value) for name, value in state().items()}
        tensors["conv1.weight"] = tensors["conv1.weight"].to(memory_format=torch.channels_last)
        torch.save(tensors, path, _use_new_zipfile_serialization=form == "torch zip")


@pytest.mark.parametrize(
    "form",
    [
        *("torch zip", "torch legacy", "safetensors"),
        *(pytest.param(form, marks=pytest.mark.slow) for form in ("msgpack", "orbax", "orbax zarr")),
        pytest.param("orbax zarr3", marks=pytest.mark.slow),  # the store is the same as of "orbax"
    ],
)
def test_no_mutation_does_harm(form, tmp_path):
    path = tmp_path / "weights"
    write(form, path)
    outcomes, slowest = run(path, tmp_path / "mutated", 1, COUNT)
    assert set(outcomes) <= {"refused", "refused by load", "identical", "other values"}, outcomes
    assert sum(outcomes.values()) == COUNT
    assert outcomes["refused"] > COUNT / 4
    assert slowest < SECONDS
    if form in ("torch zip", "orbax", "orbax zarr3"):  # every part has a checksum
        assert "other values" not in outcomes


def test_mutations_are_reproducible_and_do_change_the_file():
    original = bytes(range(256))
    first, second = (list(mutations(original, 3, 50)) for _ in range(2))
    assert first == second
    assert sum(data != original for data in first) > 40
