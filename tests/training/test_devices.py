"""One run on any number of devices, simulated in a process of their own: `on_devices.py` computes, this file judges."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from cnnjax import data, devices
from cnnjax.data.resident import Split
from cnnjax.errors import UsageError


@pytest.fixture(scope="session")
def found():
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "XLA_FLAGS"))}
    command = [sys.executable, "-m", "tests.training.on_devices"]
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8", "JAX_NUMPY_RANK_PROMOTION": "raise"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("count", ["2", "4", "8"])
def test_training_does_not_depend_on_the_number_of_devices(found, count):
    one, several = found["train"]["1"], found["train"][count]
    assert several["devices"] == int(count)
    assert several["everywhere"]
    np.testing.assert_allclose(several["values"], one["values"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(several["val_loss"], one["val_loss"], rtol=1e-5)


@pytest.mark.slow
def test_micro_batches_are_shared_by_devices_too(found):
    one, several = found["accumulated"]["1"], found["accumulated"]["4"]
    np.testing.assert_allclose(several["values"], one["values"], rtol=1e-5, atol=1e-5)
    assert np.abs(np.subtract(one["values"], found["train"]["1"]["values"])).max() > 1e-3  # batch norm sees the parts


@pytest.mark.slow
@pytest.mark.parametrize("count", ["1", "2", "3", "8"])
@pytest.mark.parametrize("examples", [1, 5, 103])
def test_evaluation_counts_each_example_once_on_any_number_of_devices(found, examples, count):
    got, expected = found["evaluate"][str(examples)][count], found["numpy"][str(examples)]
    assert got["seen"] == list(range(examples))
    assert (got["top1"], got["count"]) == (expected["top1"], examples)
    np.testing.assert_allclose(got["loss_sum"], expected["loss_sum"], rtol=1e-6)


@pytest.mark.slow
def test_augmentation_does_not_depend_on_where_an_example_lies(found):
    assert found["augmented"]["4"] == found["augmented"]["1"]


def test_what_devices_cannot_share_is_refused():
    with pytest.raises(UsageError, match=r"devices: expected 1 to \d+, as many as there are, got 1000"):
        devices.data_mesh(1000)
    mesh = devices.data_mesh(1)
    assert devices.padded_batch_size(5, mesh) == 5

    class Three:
        size = 3

    class ThreeDevices:
        devices = Three()

    with pytest.raises(UsageError, match="batch size 16 can't be divided by 3 devices: 15, for example, can"):
        devices.check_batch_size(16, ThreeDevices())


def test_an_empty_set_is_refused_on_a_mesh_too():
    empty = Split("test", np.zeros((0, 6, 5, 2), np.uint8), np.zeros(0, np.int32), [], (0.0, 0.0), (1.0, 1.0))
    with pytest.raises(UsageError, match="is empty: expected at least 1 example"):
        data.batches(empty, 16, mesh=devices.data_mesh(1))
