import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import initializers as linens

from cnnjax.layers import initializers

KERNEL = (3, 3, 64, 128)  # 73,728 numbers, fan in 576, fan out 1152
COUNT = float(np.prod(KERNEL))


def draw(init, shape=KERNEL, dtype=jnp.float32):
    return np.asarray(init(jax.random.key(0), shape, dtype), np.float64)


# The standard deviation's own is 1/sqrt(2n) of it for a normal distribution, and less for a uniform one.
@pytest.mark.parametrize(
    ("init", "std", "bound"),
    [
        (initializers.he_normal, (2 / 576) ** 0.5, None),
        (initializers.he_normal_fan_out, (2 / 1152) ** 0.5, None),
        (initializers.glorot_uniform, (2 / 1728) ** 0.5, (6 / 1728) ** 0.5),
        (initializers.torch_uniform, 576**-0.5 / 3**0.5, 576**-0.5),
        (initializers.torch_uniform_bias(576), 576**-0.5 / 3**0.5, 576**-0.5),
    ],
    ids=["he_normal", "he_normal_fan_out", "glorot_uniform", "torch_uniform", "torch_uniform_bias"],
)
def test_statistics(init, std, bound):
    numbers = draw(init)
    assert abs(numbers.mean()) < 5 * std / COUNT**0.5
    assert abs(numbers.std() / std - 1) < 5 / (2 * COUNT) ** 0.5
    if bound is None:  # untruncated: some in 73,728 lie beyond three, and their share is the normal one's
        assert abs((np.abs(numbers) > 2 * std).mean() - 0.0455) < 0.004
    else:
        assert 0.99 * bound < np.abs(numbers).max() <= bound * (1 + 1e-6)


def test_torch_uniform_is_torchs_own():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(64, 128, 3)
    for theirs, ours in (
        (layer.weight, initializers.torch_uniform),
        (layer.bias, initializers.torch_uniform_bias(576)),
    ):
        shape = KERNEL if theirs.ndim == 4 else (128,)
        ratio = np.abs(draw(ours, shape)).max() / float(theirs.detach().abs().max())
        assert abs(ratio - 1) < (0.001 if theirs.ndim == 4 else 0.1)


def test_dtype_and_linens_own():
    assert initializers.torch_uniform_bias(4)(jax.random.key(0), (3,), jnp.bfloat16).dtype == jnp.bfloat16
    np.testing.assert_array_equal(draw(initializers.glorot_uniform), draw(linens.glorot_uniform()))
