import jax
import numpy as np

from cnnjax.layers import DenseBlock


def test_what_was_there_stays_in_front():
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 6)).astype(np.float32)
    y, variables = jax.jit(DenseBlock(3, 4).init_with_output)(jax.random.key(0), x)
    assert y.shape == (2, 5, 4, 6 + 3 * 4)
    np.testing.assert_array_equal(y[..., :6], x)
    widths = [variables["params"][f"layer{n}"]["conv1"]["conv"]["kernel"].shape[2:] for n in (1, 2, 3)]
    assert widths == [(6, 16), (10, 16), (14, 16)]
    assert variables["params"]["layer2"]["conv2"]["conv"]["kernel"].shape == (3, 3, 16, 4)
