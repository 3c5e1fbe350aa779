import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from cnnjax import models
from cnnjax.errors import UsageError
from cnnjax.models.lenet_1998 import C3_READS

MODEL = models.build("lenet5_1998", num_classes=10)


def variables(size=32):
    return jax.eval_shape(MODEL.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32))


def test_has_the_papers_parameters_layer_by_layer():
    counts = {name: sum(leaf.size for leaf in jax.tree.leaves(layer)) for name, layer in variables()["params"].items()}
    # Section II.B, and 850 of the dense layer that stands in for the fixed output codes.
    assert counts == {"c1": 156, "s2": 12, "c3": 1516, "s4": 32, "c5": 48_120, "f6": 10_164, "output": 850}


def test_c3_reads_what_table_1_says():
    # Table I, row by row: which of the 16 maps of C3 each map of S2 feeds.
    table = [
        "X   XXX  XXXX XX",
        "XX   XXX  XXXX X",
        "XXX   XXX  X XXX",
        " XXX  XXXX  X XX",
        "  XXX  XXXX XX X",
        "   XXX  XXXX XXX",
    ]
    for source, row in enumerate(table):
        assert [source in reads for reads in C3_READS] == [mark == "X" for mark in row]


def numpy_lenet(params, image):
    """Run the paper's net on one image in float64, map by map, with SciPy's correlation."""
    p = jax.tree.map(lambda x: np.array(x, np.float64), params)
    squash = lambda a: 1.7159 * np.tanh(2 / 3 * a)  # noqa: E731
    maps = [image[..., 0].astype(np.float64)]
    for conv, pool, reads in (("c1", "s2", [(0,)] * 6), ("c3", "s4", C3_READS)):
        kernels, pair, convolved = p[conv]["kernel"], 0, []
        for target, sources in enumerate(reads):
            total = p[conv]["bias"][target]
            for source in sources:
                total = total + scipy.signal.correlate2d(maps[source], kernels[:, :, pair], "valid")
                pair += 1
            convolved.append(squash(total))
        assert pair == kernels.shape[2]
        sums = [m[::2, ::2] + m[1::2, ::2] + m[::2, 1::2] + m[1::2, 1::2] for m in convolved]
        maps = [squash(s * c + b) for s, c, b in zip(sums, p[pool]["coefficient"], p[pool]["bias"])]
    x = np.stack(maps, -1).reshape(-1)
    for name in ("c5", "f6"):
        x = squash(x @ p[name]["kernel"] + p[name]["bias"])
    return x @ p["output"]["kernel"] + p["output"]["bias"]


def test_equals_the_papers_equations_in_float64():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 32, 32, 1)).astype(np.float32)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32), variables()["params"]
    )
    found = jax.jit(MODEL.apply)({"params": params}, images)
    expected = np.stack([numpy_lenet(params, image) for image in images])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_starts_within_the_papers_bounds():
    params = jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))["params"]
    # 2.4 over the inputs of one unit (appendix A).
    for name, fan_in in (("c1", 25), ("c5", 400), ("f6", 120), ("output", 84)):
        kernel = np.abs(np.array(params[name]["kernel"]))
        assert 0.9 * 2.4 / fan_in < kernel.max() <= 2.4 / fan_in
    kernel, first = np.abs(np.array(params["c3"]["kernel"])), 0
    for reads in C3_READS:
        own = kernel[:, :, first : first + len(reads)]
        assert 0.8 * 2.4 / (25 * len(reads)) < own.max() <= 2.4 / (25 * len(reads))
        first += len(reads)


def test_refuses_images_that_leave_a_layer_nothing():
    assert variables(28)["params"]["c5"]["kernel"].shape == (400, 120)
    with pytest.raises(
        UsageError, match="lenet5_1998: expected images of at least 28x28 pixels, got 27x27, of which s4"
    ):
        variables(27)
