import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from cnnjax.ops import local_response_norm


def by_definition(x, size, alpha, beta, k):
    """Normalise in float64, channel by channel, as the equation says."""
    x = np.asarray(x, np.float64)
    y = np.empty_like(x)
    for c in range(x.shape[3]):
        window = x[..., max(0, c - size // 2) : c + (size - 1) // 2 + 1]
        y[..., c] = x[..., c] / (k + alpha / size * (window**2).sum(-1)) ** beta
    return y


# More channels than neighbours and fewer, an odd window and an even one.
@pytest.mark.parametrize(("channels", "size"), [(1, 1), (6, 3), (7, 4), (2, 5)])
def test_is_the_equation(channels, size):
    x = 3 * np.random.default_rng(channels).normal(size=(2, 3, 4, channels)).astype(np.float32)
    options = {"size": size, "alpha": 1.5, "beta": 0.6, "k": 2.0}
    np.testing.assert_allclose(local_response_norm(x, **options), by_definition(x, **options), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [2, 5])
def test_is_pytorchs_with_its_gradient(size):
    torch = pytest.importorskip("torch")
    x = 30 * np.random.default_rng(size).normal(size=(2, 3, 5, 6)).astype(np.float32)
    weights = np.random.default_rng(9).normal(size=x.shape).astype(np.float32)
    theirs = torch.from_numpy(x.transpose(0, 3, 1, 2)).requires_grad_()
    expected = torch.nn.LocalResponseNorm(size, alpha=0.01, beta=0.75, k=1.0)(theirs)
    (expected * torch.from_numpy(weights.transpose(0, 3, 1, 2))).sum().backward()

    def loss(x):
        y = local_response_norm(x, size, alpha=0.01)
        return (y * weights).sum(), y

    gradient, found = jax.grad(loss, has_aux=True)(x)
    np.testing.assert_allclose(found, expected.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, theirs.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-5)


def test_gradients_in_both_modes():
    x = np.random.default_rng(1).normal(size=(1, 2, 2, 5)).astype(np.float32)
    check_grads(jax.jit(lambda x: local_response_norm(x, 3, alpha=0.5)), (x,), order=2, rtol=1e-2)


@pytest.mark.parametrize("beta", [0.5, 0.75, 1.0])
def test_every_number_may_be_traced_and_has_its_gradient(beta):
    x = np.random.default_rng(2).normal(size=(1, 2, 3, 6)).astype(np.float32)
    numbers = {"alpha": jnp.float32(0.7), "beta": jnp.float32(beta), "k": jnp.float32(1.5)}

    def plain(alpha, beta, k):
        squares = jnp.pad(x * x, ((0, 0), (0, 0), (0, 0), (1, 1)))
        return (x / (k + alpha / 3 * sum(squares[..., j : j + 6] for j in range(3))) ** beta).sum()

    expected = jax.grad(lambda numbers: plain(**numbers))(numbers)
    found = jax.jit(jax.grad(lambda numbers: local_response_norm(x, 3, **numbers).sum()))(numbers)
    chex.assert_trees_all_close(found, expected, rtol=1e-4)
    assert all(abs(gradient) > 1e-3 for gradient in jax.tree.leaves(expected))


def test_half_precision_is_computed_in_float32(strict_dtypes):
    # 300 squared is beyond float16's 65504.
    x = jnp.full((1, 1, 1, 5), 300.0, jnp.float16)
    y = local_response_norm(x, 5, alpha=1.0, beta=0.5, k=1.0)
    assert y.dtype == jnp.float16
    np.testing.assert_allclose(np.asarray(y), by_definition(x, 5, 1.0, 0.5, 1.0), rtol=1e-3)


def test_refuses_what_it_cannot_normalise():
    with pytest.raises(ValueError, match=r"local_response_norm: expected x of rank 4 .*got shape \(3, 3, 3\)"):
        local_response_norm(np.ones((3, 3, 3), np.float32), 5)
    with pytest.raises(TypeError, match="expected x of a floating dtype, got int32"):
        local_response_norm(np.ones((1, 2, 2, 3), np.int32), 5)
    with pytest.raises(ValueError, match="expected size of at least 1 channel, got 0"):
        local_response_norm(np.ones((1, 2, 2, 3), np.float32), 0)
    with pytest.raises(ValueError, match=r"expected size of at least 1 channel, got 2\.5"):
        local_response_norm(np.ones((1, 2, 2, 3), np.float32), 2.5)
