import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnnjax.layers import AvgPool, GlobalAvgPool, MaxPool


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (MaxPool(3, strides=2, padding=1), {"kind": "max_pool2d", "kernel_size": 3, "stride": 2, "padding": 1}),
        (MaxPool((2, 3), ceil_mode=True), {"kind": "max_pool2d", "kernel_size": (2, 3), "ceil_mode": True}),
        (AvgPool(3, strides=2, padding=1), {"kind": "avg_pool2d", "kernel_size": 3, "stride": 2, "padding": 1}),
        (AvgPool(2, strides=3, padding=1, ceil_mode=True, count_include_pad=True), {"kind": "avg_pool2d"}),
    ],
    ids=["max", "max, ceil mode", "average", "average with padding"],
)
def test_pools_are_torchs(ours, theirs):
    torch = pytest.importorskip("torch")
    if len(theirs) == 1:
        theirs |= {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True, "count_include_pad": True}
    elif theirs["kind"] == "avg_pool2d":
        theirs["count_include_pad"] = False
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 3)).astype(np.float32)
    function = getattr(torch.nn.functional, theirs.pop("kind"))
    expected = function(torch.from_numpy(x.transpose(0, 3, 1, 2)), **theirs).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours.apply({}, x), expected, rtol=1e-6, atol=1e-6)


def test_pools_have_names_and_no_parameters_in_anyones_model():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = MaxPool(2, name="halved")(x)
            return GlobalAvgPool(name="mean")(x)

    x = np.arange(32.0, dtype=np.float32).reshape(1, 4, 4, 2)
    assert jax.eval_shape(Net().init, jax.random.key(0), x) == {}
    text = str(jax.make_jaxpr(lambda x: Net().apply({}, x))(x).pretty_print(name_stack=True))
    assert "halved" in text
    assert "mean" in text
    expected = x.reshape(1, 2, 2, 2, 2, 2).max((2, 4)).mean((1, 2))
    np.testing.assert_array_equal(Net().apply({}, jnp.asarray(x)), expected)
