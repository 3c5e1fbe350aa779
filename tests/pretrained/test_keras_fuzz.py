"""Damaged Keras files: read as they were, with other values at most, or refused in one line."""

import hashlib
import json
import random

import h5py
import pytest
from flax import linen as nn

from cnnjax.pretrained import Rule, WeightsError, load
from tests.pretrained import keras_small
from tests.pretrained.fuzz import SECONDS, content, run

COUNT = 600


@pytest.fixture
def folder(small_keras):
    return small_keras[0]


@pytest.mark.slow
@pytest.mark.parametrize("ending", keras_small.ENDINGS)
def test_no_mutation_does_harm(folder, tmp_path, ending):
    outcomes, slowest = run(folder / f"net{ending}", tmp_path / "mutated", 2, COUNT)
    assert set(outcomes) <= {"refused", "refused by load", "identical", "other values"}, outcomes
    assert sum(outcomes.values()) == COUNT
    assert outcomes["refused"] > COUNT / 4
    assert slowest < SECONDS
    if ending == ".keras":  # every member has a checksum
        assert "other values" not in outcomes


def payload(path):
    """Return which bytes of a file are values of tensors."""
    found = set()

    def visit(_, item):
        if isinstance(item, h5py.Dataset) and item.size:
            found.update(range(item.id.get_offset(), item.id.get_offset() + item.nbytes))

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


@pytest.mark.parametrize("ending", [".h5", pytest.param(".weights.h5", marks=pytest.mark.slow)])
def test_no_change_outside_of_the_values_changes_values(folder, tmp_path, ending):
    path = folder / f"net{ending}"
    original = path.read_bytes()
    structure = sorted(set(range(len(original))) - payload(path))
    chance = random.Random(0)
    places = chance.sample([place for place in structure if original[place]], 500)
    flips = [(place, chance.randrange(8)) for place in places]
    outcomes, _ = run(path, tmp_path / "mutated", json.dumps(flips), len(flips))
    assert set(outcomes) <= {"refused", "refused by load", "identical"}
    assert outcomes["refused"] > 100


class Arrays(nn.Module):
    """Has the arrays of a file by their names in it, and does nothing."""

    arrays: tuple
    input_shape = (1, 1, 1)

    @nn.compact
    def __call__(self, x):
        for name, shape in self.arrays:
            self.param(name, nn.initializers.zeros, shape)
        return x


def test_a_pinned_digest_catches_changed_values(folder, tmp_path):
    path = folder / "net.weights.h5"
    mutated = bytearray(path.read_bytes())
    mutated[sorted(payload(path))[1000]] ^= 1
    (tmp_path / "mutated").write_bytes(mutated)
    described, hashes = content(path)
    found, changed = content(tmp_path / "mutated")
    assert found == described
    assert sum(hashes[name] != changed[name] for name in hashes) == 1
    model = Arrays(tuple((name, shape) for name, (shape, _) in described.items()))
    rules = [Rule("{rest*}", "params/{rest*}")]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for sha256 in (None, digest, digest[:8]):
        load(model, path, rules=rules, sha256=sha256)
    load(model, tmp_path / "mutated", rules=rules)
    for sha256 in (digest, digest[:8]):
        with pytest.raises(WeightsError, match=r"its sha256 is .*, expected .*\. It is damaged or another file\."):
            load(model, tmp_path / "mutated", rules=rules, sha256=sha256)
