"""Batches of every library's loader train as the same arrays in a list do."""

import chex
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax.errors import UsageError
from cnnjax.training import Batch, create_state, evaluate, fit
from tests.optional import torch
from tests.training.nets import TinyNet

NET, SGD, SIZE = TinyNet(dropout=0.0), optax.sgd(0.1), 8
RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.normal(size=(20, 6, 5, 3)).astype(np.float32), RNG.integers(0, 4, 20)
PLACES = [slice(start, start + SIZE) for start in range(0, 20, SIZE)]  # the last batch is smaller


def trained(batches, **options):
    state = create_state(NET, SGD, (6, 5, 3), key=jax.random.key(0))
    state, history = fit(state, batches, batches, epochs=2, progress=False, **options)
    assert evaluate(state, batches, **options).examples == 20
    return state.params, history["train_loss"] + history["val_loss"]


@pytest.fixture(scope="module")
def expected():
    return trained([Batch(jnp.asarray(IMAGES[p]), jnp.asarray(LABELS[p])) for p in PLACES])


class TfDataset:
    """Tensors as tf.data yields them: eager, with `__array__` and `ndim` and nothing else of NumPy's."""

    class Tensor:
        def __init__(self, value):
            self._value = value

        def __array__(self, dtype=None, copy=None):
            return self._value

    def __iter__(self):
        return ((self.Tensor(IMAGES[p]), self.Tensor(LABELS[p])) for p in PLACES)


LOADERS = {
    "pairs": [(IMAGES[p], LABELS[p]) for p in PLACES],
    "lists": [[list(IMAGES[p]), LABELS[p].tolist()] for p in PLACES],
    "mappings of lists": [{"image": IMAGES[p].tolist(), "label": LABELS[p].tolist()} for p in PLACES],
    "Hugging Face's names": [{"pixel_values": IMAGES[p], "labels": LABELS[p]} for p in PLACES],
    "tf.data's tensors": TfDataset(),
    "grain's map": grain.MapDataset.source(list(zip(IMAGES, LABELS))).batch(SIZE),
    "grain's stream": grain.MapDataset.source([{"image": i, "label": n} for i, n in zip(IMAGES, LABELS)])
    .batch(SIZE)
    .to_iter_dataset(),
}


@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_trains_as_arrays_do(name, expected):
    found = trained(LOADERS[name])
    # A list of floats comes as float64 and is made float32; the rest is the same numbers.
    chex.assert_trees_all_equal(found[0], expected[0])
    assert found[1] == expected[1]


def torch_loader(images):
    data = torch.utils.data.TensorDataset(torch.tensor(images), torch.tensor(LABELS))
    return torch.utils.data.DataLoader(data, batch_size=SIZE)


def test_torchs_loader_trains_as_arrays_do_channels_first_or_last(expected):
    first = torch_loader(IMAGES.transpose(0, 3, 1, 2).copy())
    for found in (trained(torch_loader(IMAGES)), trained(first, channels_first=True)):
        chex.assert_trees_all_equal(found[0], expected[0])
        assert found[1] == expected[1]
    with pytest.raises(UsageError, match=r"shape \(8, 3, 6, 5\) look like channels first.* Write channels_first=True"):
        trained(first)


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([(IMAGES[0], LABELS[0])], UsageError, r"got single examples: .* DataLoader\(data, batch_size=32\), grain's"),
        ([(IMAGES, LABELS, LABELS)], TypeError, r"a mapping with 'image' and 'label', got tuple"),
        ([{"picture": IMAGES, "label": LABELS}], TypeError, r"got keys \['label', 'picture'\]"),
        ([((IMAGES * 255).astype(np.uint8), LABELS)], TypeError, r"expected float images, got uint8\. Scale them"),
        ([(IMAGES, np.eye(4)[LABELS].astype(int))], ValueError, r"Pass class numbers, not one-hot rows"),
        (
            [(np.zeros((8, 3, 32, 32), "f"), LABELS[:8])],
            UsageError,
            r"channels first.* fit\(\.\.\., channels_first=True",
        ),
    ],
)
def test_what_is_not_a_batch_is_told_apart(batches, error, message):
    with pytest.raises(error, match=message):
        trained(batches)


def test_channels_first_turns_batches_too(expected):
    first = [Batch(jnp.asarray(IMAGES[p].transpose(0, 3, 1, 2)), jnp.asarray(LABELS[p])) for p in PLACES]
    chex.assert_trees_all_equal(trained(first, channels_first=True)[0], expected[0])
