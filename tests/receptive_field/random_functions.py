"""Random functions of images for the tests: a chain of layers and branches, drawn by hypothesis, run by JAX."""

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax import lax

from cnnjax import ops

NHWC = ("NHWC", "HWIO", "NHWC")
CHANNELS = 2


def kernel(*shape):
    # Positive and uneven: nothing cancels, and no kernel is one repeated value.
    return np.random.default_rng(len(shape)).uniform(0.5, 1.5, shape).astype(np.float32)


def sizes(top):
    return st.tuples(st.integers(1, top), st.integers(1, top))


pads = st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 2)
paddings = st.one_of(st.sampled_from(["SAME", "SAME_LOWER", "VALID"]), pads)


@st.composite
def convolution(draw):
    window, strides, dilation, padding = draw(sizes(4)), draw(sizes(3)), draw(sizes(3)), draw(paddings)
    groups = draw(st.sampled_from([1, 2]))
    weights = kernel(*window, CHANNELS // groups, CHANNELS)
    return lambda x: lax.conv_general_dilated(
        x, weights, strides, padding, rhs_dilation=dilation, dimension_numbers=NHWC, feature_group_count=groups
    )


@st.composite
def house_convolution(draw):
    window, strides, dilation = draw(sizes(3)), draw(sizes(2)), draw(sizes(2))
    padding = draw(st.one_of(st.sampled_from(["SAME", "VALID"]), pads))
    weights = kernel(*window, CHANNELS, CHANNELS)
    return lambda x: ops.conv2d(x, weights, strides=strides, padding=padding, kernel_dilation=dilation)


@st.composite
def transposed(draw):
    window, padding, up, dilation = draw(sizes(3)), draw(pads), draw(sizes(3)), draw(sizes(2))
    weights = kernel(*window, CHANNELS, CHANNELS)
    return lambda x: lax.conv_general_dilated(
        x, weights, (1, 1), padding, lhs_dilation=up, rhs_dilation=dilation, dimension_numbers=NHWC
    )


@st.composite
def pool(draw):
    window, strides = draw(st.tuples(st.integers(2, 4), st.integers(2, 4))), draw(sizes(3))
    low, high = draw(st.integers(0, 1)), draw(st.integers(0, 1))
    function = draw(st.sampled_from([ops.max_pool, ops.avg_pool]))
    padding = draw(st.sampled_from(["SAME", "VALID", ((low, high), (high, low))]))
    ceil = draw(st.booleans())
    return lambda x: function(x, window, strides=strides, padding=padding, ceil_mode=ceil)


@st.composite
def window_sum(draw):
    window, strides, base, dilation = (1, *draw(sizes(3)), 1), (1, *draw(sizes(2)), 1), draw(sizes(2)), draw(sizes(2))
    padding = [(0, 0), *draw(pads), (0, 0)]
    return lambda x: lax.reduce_window(x, 0.0, lax.add, window, strides, padding, (1, *base, 1), (1, *dilation, 1))


@st.composite
def rearranged(draw):
    kind = draw(st.sampled_from(["rev", "swap", "stride", "crop", "roll", "pad", "repeat", "depth", "reflect"]))
    axis, amount = draw(st.sampled_from([1, 2])), draw(st.integers(1, 3))
    low, high, between = draw(st.integers(-1, 2)), draw(st.integers(-1, 2)), draw(st.integers(0, 1))
    config = [(low, high, between) if a == axis else (0, 0, 0) for a in range(4)]
    functions = {
        "rev": lambda x: jnp.flip(x, axis),
        "swap": lambda x: jnp.swapaxes(x, 1, 2),
        "stride": lambda x: lax.slice_in_dim(x, min(amount, x.shape[axis]) - 1, None, amount, axis),
        "crop": lambda x: lax.slice_in_dim(x, min(amount, x.shape[axis] - 1), None, 1, axis),
        "roll": lambda x: jnp.roll(x, amount, axis),
        "pad": lambda x: lax.pad(x, jnp.float32(0), config if x.shape[axis] > 2 else [(0, 0, 0)] * 4),
        "repeat": lambda x: jnp.repeat(x, amount, axis),
        "depth": _space_to_depth,
        "reflect": lambda x: jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], "reflect") if min(x.shape[1:3]) > 1 else x,
    }
    return functions[kind]


def _space_to_depth(x):
    x = (
        x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
        if min(x.shape[1:3]) > 1
        else jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
    )
    n, h, w, c = x.shape
    x = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h // 2, w // 2, 4 * c)
    return x[..., :CHANNELS] + x[..., -CHANNELS:]


layers = st.one_of(
    convolution(), convolution(), house_convolution(), transposed(), pool(), window_sum(), rearranged(), rearranged()
)
SOFT = [lambda x: x, jnp.tanh, lambda x: jnp.maximum(x, 0), lambda x: x * 2 + 1]


@st.composite
def functions(draw, depth=5):
    """Draw a function of images with two channels: a chain, some of whose links are two branches that join."""
    links = []
    for _ in range(draw(st.integers(1, depth))):
        main, side = draw(layers), draw(st.one_of(st.none(), st.none(), layers))
        links.append((main, side, draw(st.sampled_from(["add", "channels", "rows"])), draw(st.sampled_from(SOFT))))

    def function(x):
        for main, side, how, soft in links:
            y = _tried(main, x)
            x = soft(y if side is None else _joined(y, _tried(side, x), how))
        return x

    return function


def _tried(layer, x):
    """Apply a layer if a window of it fits and the result is neither empty nor large."""
    try:
        y = layer(x)
    except (ValueError, TypeError):
        return x
    return y if all(0 < size <= 40 for size in y.shape[1:3]) else x


def _joined(a, b, how):
    if how == "rows":
        width = min(a.shape[2], b.shape[2])
        return jnp.concatenate([a[:, :, :width], b[:, :, -width:]], axis=1)
    height, width = min(a.shape[1], b.shape[1]), min(a.shape[2], b.shape[2])
    a, b = a[:, :height, :width], b[:, -height:, :width]
    if how == "add":
        return a + b
    return jnp.concatenate([a, b], axis=-1)[..., 1 : 1 + CHANNELS]


@st.composite
def movable(draw, depth=4):
    """Draw a chain of windows with strides, dilations and padding in numbers: another image size moves nothing.

    Of 17 pixels at least two are left along each axis, so that nowhere one unit stands for the whole image.
    """
    links = []
    for _ in range(draw(st.integers(1, depth))):
        window, strides, dilation, padding = draw(sizes(4)), draw(sizes(2)), draw(sizes(2)), draw(pads)
        links.append((draw(st.booleans()), window, strides, dilation, padding, draw(st.booleans())))

    def function(x):
        for pooled, window, strides, dilation, padding, shortcut in links:
            # Padded by what the window reaches at the least, so that it fits, and that keeps the same units.
            reach = [(low + (k - 1) * d, high) for (low, high), k, d in zip(padding, window, dilation)]
            if pooled:
                edges = [(0, 0), *reach, (0, 0)]
                y = lax.reduce_window(
                    x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), edges, None, (1, *dilation, 1)
                )
            else:
                weights = kernel(*window, CHANNELS, CHANNELS)
                y = lax.conv_general_dilated(x, weights, strides, reach, rhs_dilation=dilation, dimension_numbers=NHWC)
            if shortcut:
                y = y + lax.slice(
                    jnp.pad(x, [(0, 0), *[(0, 9)] * 2, (0, 0)]),
                    (0, 0, 0, 0),
                    (1, *((n - 1) * s + 1 for n, s in zip(y.shape[1:3], strides)), CHANNELS),
                    (1, *strides, 1),
                )
            x = y
        return x

    return function
