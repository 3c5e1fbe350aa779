"""Functions that are hard to follow, against what changing one pixel at a time does to their numbers.

A change that shows up must have been foreseen, whatever the function; a field that says it is exact foresees no more.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax import lax

from cnnjax import ops
from cnnjax.ops import channels
from cnnjax.receptive_field import receptive_field

SHAPE = (1, 5, 6, 2)
RANDOM = np.random.default_rng(0)
KERNEL = RANDOM.uniform(0.5, 1.5, (3, 3, 2, 2)).astype(np.float32)
NHWC = ("NHWC", "HWIO", "NHWC")


def weights(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def conv(x, **options):
    return ops.conv2d(x, KERNEL, **options)


def shifted(x, axis=1):
    return jnp.roll(x, 1, axis)


def row(x, k):
    return lax.dynamic_slice(x, (0, k, 0, 0), (1, 1, *x.shape[2:]))


def rows_of(step, x, *, reverse=False, start=None):
    """Scan over the rows of images; `step` takes what is carried and a row and gives both."""
    start = jnp.zeros((x.shape[0], *x.shape[2:])) if start is None else start
    return jnp.moveaxis(lax.scan(step, start, jnp.moveaxis(x, 1, 0), reverse=reverse)[1], 0, 1)


@jax.custom_vjp
def own_gradient(x):
    return conv(x)


own_gradient.defvjp(lambda x: (conv(x), None), lambda _, g: (g,))


@jax.custom_jvp
def own_tangent(x):
    return conv(x)


own_tangent.defjvp(lambda x, t: (conv(x[0]), conv(t[0])))


def where_the_largest_is(x):
    places = lax.broadcasted_iota(jnp.float32, x.shape, 1)

    def larger(a, b):
        return jnp.where(a[0] > b[0], a[0], b[0]), jnp.where(a[0] > b[0], a[1], b[1])

    window = (1, 2, 3, 1), (1, 2, 1, 1), "VALID"
    return lax.reduce_window((x, places), (-jnp.inf, 0.0), larger, *window)[1]


def causal_attention(x):
    tokens = x[:, :, 0] * 0.3
    scores = jnp.einsum("nic,njc->nij", tokens, tokens)
    past = jnp.tril(jnp.ones((5, 5), bool))[None]
    return jnp.einsum("nij,njc->nic", jax.nn.softmax(jnp.where(past, scores, -jnp.inf)), tokens)


def attention_over_space(x):
    tokens = x.reshape(1, -1, 2) * 0.3
    return (jax.nn.softmax(tokens @ tokens.swapaxes(1, 2)) @ tokens).reshape(x.shape)


def depth_to_space(x):
    x = jnp.concatenate([conv(x)] * 2, -1).reshape(1, 5, 6, 2, 2, 1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(1, 10, 12, 1)


def counted(times, x):
    return lax.while_loop(lambda s: s[0] < times, lambda s: (s[0] + 1, shifted(conv(s[1])) / 9), (0, x))[1]


def until_it_is_large(x):
    def test(s):
        return (jnp.tanh(s[1]).sum() + s[0] < 3) & (s[0] < 4)

    return lax.while_loop(test, lambda s: (s[0] + 1, conv(s[1]) / 9), (0, x))[1]


def sampled_at(x, rows, columns):
    from jax.scipy.ndimage import map_coordinates

    return map_coordinates(x[0, :, :, 0], [rows, columns], order=1)[None, :, :, None]


GRID = np.meshgrid(np.arange(4) * 1.05 + 0.1, np.arange(5) * 0.8 + 0.1, indexing="ij")
GROUPED = functools.partial(lax.conv_general_dilated, dimension_numbers=NHWC, padding="SAME", window_strides=(1, 1))

# What each reads is known: the interval of every unit is the hull of what changes.
EXACT = {
    "fourier": lambda x: jnp.fft.fft(x, axis=1).real,
    "sort": lambda x: jnp.sort(x, axis=2),
    "sort channels": lambda x: jnp.sort(conv(x), axis=-1),
    "cumulative sum": lambda x: jnp.cumsum(x, 1),
    "cumulative sum, from the end": lambda x: lax.cumsum(conv(x), 1, reverse=True),
    "associative scan": lambda x: lax.associative_scan(jnp.add, x, axis=1),
    "while that counts": functools.partial(counted, 2),
    "while that never runs": functools.partial(counted, 0),
    "for over rows": lambda x: lax.fori_loop(0, 3, lambda k, c: c + row(x, k), jnp.zeros((1, 1, 6, 2))),
    "for that reverses": lambda x: lax.fori_loop(
        0, 5, lambda k, c: lax.dynamic_update_slice(c, row(x, 4 - k), (0, k, 0, 0)), jnp.zeros(SHAPE)
    ),
    "scan over places": lambda x: lax.scan(lambda c, k: (c, row(x, k)[:, 0]), 0, jnp.array([3, 0, 3]))[1].swapaxes(
        0, 1
    ),
    "scan over rows": lambda x: rows_of(lambda c, r: (c + r, c + r), x),
    "scan over rows, from the end": lambda x: rows_of(lambda c, r: (c + r, c + r), x, reverse=True),
    "scan that delays": lambda x: rows_of(lambda c, r: (r, c), x),
    "map": lambda x: jnp.moveaxis(lax.map(lambda r: r * 2, jnp.moveaxis(x, 1, 0)), 0, 1),
    "own gradient": own_gradient,
    "own tangent": own_tangent,
    "remat in jit": jax.jit(jax.checkpoint(lambda x: conv(jnp.tanh(conv(x))))),
    "composite": lambda x: lax.composite(conv, "own.conv")(x),
    "gradient of a convolution": jax.grad(lambda x: (conv(x, strides=2, padding=1) ** 2).sum()),
    "hessian times vector": lambda x: jax.jvp(jax.grad(lambda x: (conv(x) ** 3).sum()), (x,), (x,))[1],
    "backwards": lambda x: conv(x[:, ::-1, ::-1], strides=2, padding=1),
    "roll": lambda x: jnp.roll(conv(x), (2, -1), (1, 2)),
    "largest place": lambda x: jnp.argmax(x, axis=1).astype(jnp.float32),
    "largest place in windows": where_the_largest_is,
    "matrix over rows": lambda x: jnp.einsum("nhwc,hk->nkwc", x, weights(5, 4)),
    "matrix at each row": lambda x: jnp.einsum("nhwc,hcd->nhwd", x, weights(5, 2, 3)),
    "attention": attention_over_space,
    "attention along rows": lambda x: jnp.einsum("nhij,nhjc->nhic", jnp.einsum("nhic,nhjc->nhij", x, x), x),
    "attention to the past": causal_attention,
    "space flattened": lambda x: conv(x).reshape(1, 30, 2),
    "space flattened wrongly": lambda x: x.reshape(1, 6, 5, 2),
    "convolution of flattened space": lambda x: lax.conv_general_dilated(
        x.reshape(1, 30, 2), weights(3, 2, 2), (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    ),
    "one axis reduced": lambda x: conv(x).max(1),
    "one axis averaged": lambda x: conv(x).mean(2, keepdims=True) * x,
    "space to depth": lambda x: x[:, :4].reshape(1, 2, 2, 3, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(1, 2, 3, 8),
    "depth to space": depth_to_space,
    "vmap over images": jax.vmap(lambda image: conv(image[None])[0]),
    "vmap over rows": lambda x: jax.vmap(lambda r: jnp.cumsum(r, 1), 1, 1)(x),
    "vmap of slices": lambda x: jax.vmap(lambda r, s: lax.dynamic_slice(r, (0, s, 0), (1, 3, 2)), (1, 0), 1)(
        x, jnp.arange(5) % 4
    ),
    "stacked and interleaved": lambda x: jnp.stack([x, conv(x)], 2).reshape(1, 10, 6, 2),
    "unstacked": lambda x: jnp.stack(jnp.unstack(x, axis=1)[::-1], 1),
    "chosen by place": lambda x: jnp.where(jnp.arange(5)[None, :, None, None] < 2, x, shifted(x, 2)),
    "chosen by data": lambda x: jnp.where(x[:, :1] > 0, x, shifted(x, 2)),
    "outside is zero": lambda x: jnp.take(x, jnp.array([-1, 9, 2]), axis=1, fill_value=0, mode="fill"),
    "outside wraps": lambda x: jnp.take(x, jnp.array([-1, 9, 2]), axis=1, mode="wrap"),
    "repeated unevenly": lambda x: jnp.repeat(x, jnp.array([1, 0, 2, 3, 1]), axis=1, total_repeat_length=7),
    "set at places": lambda x: x.at[:, jnp.arange(3), jnp.arange(3) + 1].set(x[:, 2:, 0]),
    "table of numbers": lambda x: jnp.asarray(weights(11))[jnp.clip((conv(x) * 2).astype(int), 0, 10)],
    "search in a table": lambda x: jnp.searchsorted(jnp.array([-1.0, 0.0, 1.0]), x).astype(jnp.float32),
    "bits": lambda x: lax.bitcast_convert_type(lax.bitcast_convert_type(conv(x), jnp.int32) ^ 1, jnp.float32),
    "bytes": lambda x: lax.bitcast_convert_type(conv(x), jnp.uint8).astype(jnp.float32).sum(-1),
    "sampled at places": lambda x: sampled_at(x, *GRID),
    "convolution of each place": lambda x: lax.conv_general_dilated_local(
        x, weights(3, 4, 18, 2), (1, 1), "VALID", (3, 3), dimension_numbers=NHWC
    ),
    "patches": lambda x: lax.conv_general_dilated_patches(x, (3, 2), (2, 1), "SAME", dimension_numbers=NHWC),
    "groups": lambda x: GROUPED(
        jnp.concatenate([x[..., :1], shifted(x[..., 1:], 2)], -1), weights(1, 1, 1, 2), feature_group_count=2
    )[..., 1:],
    "depthwise": lambda x: GROUPED(x, weights(3, 3, 1, 4), feature_group_count=2),
    "padded by wrapping": lambda x: jnp.pad(x, [(0, 0), (2, 1), (1, 3), (0, 0)], "wrap"),
    "padded with the mean": lambda x: jnp.pad(x, [(0, 0), (2, 1), (0, 0), (0, 0)], "mean"),
    "normalised over the image": lambda x: x - x.mean((1, 2), keepdims=True),
    "normalised over the batch": lambda x: x - channels.broadcast_channels(channels.channel_sum(conv(x)[:, :2]), x),
    "scaled by a channel's square": lambda x: channels.scale(
        conv(x), channels.channel_dot(x[:, :2, 1:3], x[:, :2, 2:4])
    ),
    "scaled by channels": lambda x: channels.scale(conv(x), jnp.arange(2.0)),
    "normalised along rows": lambda x: x / jnp.linalg.norm(x, axis=2, keepdims=True),
    "channel picked": lambda x: jnp.concatenate([x, shifted(x)], -1)[..., :2],
    "a branch that does less": lambda x: jnp.concatenate([x[:, 2:], conv(x)[:, :2]], 1),
    "pool and shortcut": lambda x: jnp.repeat(jnp.repeat(ops.max_pool(x[:, :4], 2), 2, 1), 2, 2) + conv(x)[:, :4],
}
# What each reads depends on the data: as much as it could be, with the primitive and this file's line.
AT_MOST = {
    "gather": lambda x: x[:, (x[0, :, 0, 0] > 0).astype(int)],
    "gather ": lambda x: jnp.take_along_axis(x, (x > 0).astype(int), axis=1),
    "gather  ": lambda x: sampled_at(x, x[0, :, :, 1], x[0, :, :, 0]),
    "scatter": lambda x: x.at[0, jnp.argmax(x[0, :, 0, 0]), 0].set(1.0),
    "dynamic_slice": lambda x: lax.dynamic_slice(x, (0, jnp.argmax(x[0, :, 0, 0]), 0, 0), (1, 4, 6, 2)),
    "dynamic_slice ": lambda x: jnp.roll(x, (x[0, 0, 0, 0] > 0).astype(int), 1),
    "dynamic_update_slice": lambda x: lax.dynamic_update_slice(x, x[:, :2], (0, jnp.argmax(x[0, :, 0, 0]), 0, 0)),
    "while": until_it_is_large,
    "while ": lambda x: lax.fori_loop(0, (x[0, 0, 0, 0] > 0).astype(int) + 1, lambda _, c: conv(c) / 9, x),
    "custom_linear_solve": lambda x: jnp.linalg.solve(jnp.tile(jnp.eye(6), (1, 5, 1, 1)) * 3 + 0.3, x),
    "fft": lambda x: jnp.fft.ifft2(jnp.fft.fft2(x, axes=(1, 2)) * 2, axes=(1, 2)).real,
    "select_and_scatter_add": jax.grad(
        lambda x: (lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") ** 2).sum()
    ),
}


def changes(function, seed):
    """Return `[rows, columns, output...]`: whether a change of a pixel ever changes an output."""
    random, seen = np.random.default_rng(seed), False
    run = jax.jit(lambda images: lax.map(function, images))
    places = np.eye(SHAPE[1] * SHAPE[2], dtype=bool).reshape(-1, 1, *SHAPE[1:3], 1)
    for _ in range(4):
        image = random.normal(size=SHAPE).astype(np.float32) * 2
        others = random.normal(size=(2, 1, *SHAPE)).astype(np.float32) * 3
        images = np.concatenate([np.where(places, others, image).reshape(-1, *SHAPE), image[None]])
        out = np.asarray(run(images), float)
        size = max(1.0, float(np.nanmax(np.abs(out[-1]))))
        same = (np.abs(out[:-1] - out[-1]) <= 1e-4 * size) | (np.isnan(out[:-1]) & np.isnan(out[-1]))
        seen |= ~same.reshape(2, *SHAPE[1:3], *out.shape[1:]).all(0)
    return seen


def hull(seen):
    found = [np.flatnonzero(seen.any(1 - axis)) for axis in (0, 1)]
    return tuple((int(f[0]), int(f[-1])) if f.size else None for f in found)


def compared(function, seed=0):
    """Yield, for every unit, what is said to be read and what is seen to be."""
    field = receptive_field(function, SHAPE, output=0)
    seen = changes(function, seed)
    others = tuple(axis + 2 for axis in range(len(field.output_shape)) if axis not in field.unit_axes)
    seen = np.moveaxis(seen.any(others), (0, 1), (-2, -1))
    assert seen.shape[:-2] == field.units
    for index in itertools.product(*map(range, field.units)):
        yield field.interval(index), hull(seen[index])


@pytest.mark.parametrize("function", EXACT.values(), ids=EXACT)
def test_what_is_exact_is_what_changes(function):
    assert receptive_field(function, SHAPE, output=0).exact
    for said, seen in compared(function):
        assert said == seen


@pytest.mark.parametrize(("primitive", "function"), AT_MOST.items(), ids=AT_MOST)
def test_what_cannot_be_known_is_never_too_little(primitive, function):
    field = receptive_field(function, SHAPE, output=0)
    assert not field.exact
    assert any(note.startswith(f"{primitive.strip()} at {__file__}:") for note in field.notes), field.notes
    assert len(set(field.notes)) == len(field.notes)
    for said, seen in compared(function):
        for one, other in zip(said, seen):
            assert other is None or (one is not None and one[0] <= other[0] and other[1] <= one[1])


def written(x):
    place = jax.new_ref(jnp.zeros(SHAPE))
    place[...] = conv(x)
    return x + place[...]


@pytest.mark.parametrize("function", [written, jax.jit(written), lambda x: lax.cond(x.sum() > 0, written, conv, x)])
def test_a_function_that_writes_to_a_place_is_refused(function):
    with pytest.raises(ValueError, match=rf"new_ref at {__file__}:\d+ \(written\)"):
        receptive_field(function, SHAPE)


def test_a_long_loop_that_counts_stays_exact():
    """Of 300 steps each adds a convolution: more than a chain of equations may be long to be followed."""

    def deep(x):
        return lax.while_loop(lambda s: s[0] < 300, lambda s: (s[0] + 1, conv(s[1])), (0, x))[1]

    field = receptive_field(deep, (1, 700, 3, 2), output=0)
    assert (field.size[0], field.padding[0], field.exact) == (601, 300, True)
    assert field.interval((350, 1))[0] == (50, 650)


def test_nnx_and_equinox_modules_are_taken_in_evaluation_mode():
    equinox = pytest.importorskip("equinox")

    class Nnx(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(2, 4, (3, 3), strides=2, padding=1, rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.dropout(nnx.relu(self.norm(self.conv(x))))

    net = Nnx(nnx.Rngs(0))
    assert receptive_field(net, SHAPE).interval((1, 1)) == ((1, 3), (1, 3))
    assert not net.dropout.deterministic  # the caller's own stays as it was

    class Equinox(equinox.Module):
        conv: Any
        dropout: Any

        def __call__(self, x):
            return self.dropout(jax.nn.relu(self.conv(x)))

    other = Equinox(equinox.nn.Conv2d(2, 4, 3, 2, 1, key=jax.random.key(0)), equinox.nn.Dropout(0.5))
    assert receptive_field(other, (2, 5, 6)).interval((1, 1)) == ((1, 3), (1, 3))


def test_a_scanned_stack_of_linen_layers():
    class Layers(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.scan(
                lambda module, x, _: (nn.Conv(2, (3, 3), name="conv")(x), None),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=4,
            )
            return layer(self, x, None)[0]

    assert receptive_field(Layers(), (20, 20, 2)).size == (9, 9)
