import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.layers import SqueezeExcitation, hard_swish, round_channels


@pytest.mark.parametrize("gate", [jax.nn.sigmoid, jax.nn.hard_sigmoid])
def test_channels_are_scaled_by_what_their_means_say(gate):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 4, 6)).astype(np.float32)
    layer = SqueezeExcitation(3, gate=gate)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    reduce, expand = (variables["params"][name] for name in ("reduce", "expand"))
    means = x.astype(np.float64).mean((1, 2))
    y = np.maximum(means @ reduce["kernel"][0, 0] + reduce["bias"], 0) @ expand["kernel"][0, 0] + expand["bias"]
    factor = np.clip(y + 3, 0, 6) / 6 if gate is jax.nn.hard_sigmoid else 1 / (1 + np.exp(-y))
    np.testing.assert_allclose(layer.apply(variables, x), x * factor[:, None, None], rtol=1e-5)


def test_a_gate_keeps_the_dtype():
    x = jax.ShapeDtypeStruct((1, 4, 4, 8), jnp.bfloat16)
    layer = SqueezeExcitation(2, dtype=jnp.bfloat16)
    y, variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_hard_swish_is_the_papers():
    x = np.linspace(-5, 5, 21, dtype=np.float32)
    np.testing.assert_allclose(hard_swish(x), x * np.clip(x + 3, 0, 6) / 6, rtol=1e-6)


@pytest.mark.parametrize(
    ("channels", "options", "expected"),
    # Sandler et al.'s code: nearest multiple of 8, unless that takes more than a tenth.
    [
        (11.2, {}, 16),
        (33.6, {}, 32),
        (31.2, {}, 32),
        (3, {}, 8),
        (18, {}, 24),
        (18, {"most_lost": 1}, 16),
        (6, {"divisor": 4}, 8),
    ],
)
def test_channels_are_rounded_as_in_the_mobile_nets(channels, options, expected):
    assert round_channels(channels, **options) == expected
