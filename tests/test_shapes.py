"""Window arithmetic against jax.eval_shape, jax.lax's own padding and windows counted one by one."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax

from cnnjax import shapes

SIZES = st.integers(1, 70)
WINDOWS = st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 4))  # kernel, stride, dilation
PADDINGS = st.one_of(
    st.sampled_from(["SAME", "SAME_LOWER", "VALID"]),
    st.integers(0, 6),
    st.tuples(st.integers(-2, 6), st.integers(-2, 6)),
)


def draw_windows(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        window = {"size": rng.integers(1, 70), "kernel": rng.integers(1, 10), "stride": rng.integers(1, 6)}
        sides = tuple(map(int, rng.integers(-2, 7, 2)))
        padding = ("SAME", "SAME_LOWER", "VALID", int(rng.integers(0, 7)), sides, sides)[rng.integers(6)]
        yield {name: int(value) for name, value in window.items()} | {"padding": padding}, rng


def lax_window(window):
    """Return image, kernel, strides and padding of a window of one axis, as jax.lax takes them."""
    x = jax.ShapeDtypeStruct((1, window["size"], 1), jnp.float32)
    k = jax.ShapeDtypeStruct((window["kernel"], 1, 1), jnp.float32)
    padding = window["padding"]
    sides = padding if isinstance(padding, str) else [(padding, padding) if isinstance(padding, int) else padding]
    return x, k, (window["stride"],), sides


def test_sizes_of_2000_random_windows_equal_eval_shape():
    """Convolutions, transposed convolutions and pools in one trace; ceil mode, which JAX lacks, is below."""
    calls, expected, refused = [], [], []
    for number, (window, rng) in enumerate(draw_windows(2500)):
        kind = ("conv", "transposed", "pool")[number % 3]
        dilation = int(rng.integers(1, 4)) if kind != "pool" else 1
        if kind == "transposed" and window["padding"] == "SAME_LOWER":
            continue
        sized = shapes.conv_transpose_output_size if kind == "transposed" else shapes.conv_output_size
        try:
            size = sized(**window, dilation=dilation)
        except ValueError:
            refused.append((kind, window, dilation))
            continue
        calls.append((kind, window, dilation))
        expected.append(size)

    def sizes(calls):
        for kind, window, dilation in calls:
            x, k, strides, sides = lax_window(window)
            x, k = jnp.zeros(x.shape), jnp.zeros(k.shape)
            if kind == "conv":
                yield lax.conv_general_dilated(
                    x, k, strides, sides, rhs_dilation=(dilation,), dimension_numbers=("NHC", "HIO", "NHC")
                )
            elif kind == "transposed":
                yield lax.conv_transpose(x, k, strides, sides, rhs_dilation=(dilation,), use_consistent_padding=True)
            else:
                sides = sides if isinstance(sides, str) else [(0, 0), *sides, (0, 0)]
                yield lax.reduce_window(x, 0.0, lax.add, (1, window["kernel"], 1), (1, *strides, 1), sides)

    assert len(calls) >= 2000
    assert [y.shape[1] for y in jax.eval_shape(lambda: list(sizes(calls)))] == expected
    for call in refused:  # JAX refuses such a window too, or gives it no output
        try:
            (y,) = jax.eval_shape(lambda call=call: list(sizes([call])))
        except (TypeError, ValueError):
            continue
        assert y.shape[1] == 0, call


@settings(max_examples=200, deadline=None)
@given(SIZES, WINDOWS)
def test_same_padding_is_jax_padding(size, window):
    kernel, stride, dilation = window
    reach = (kernel - 1) * dilation + 1
    for word in ("SAME", "SAME_LOWER"):
        expected = lax.padtype_to_pads((size,), (reach,), (stride,), word)[0]
        assert shapes.resolve_padding(size, kernel, stride, word, dilation) == tuple(map(int, expected))
    assert shapes.same_padding(size, kernel, stride, dilation) == shapes.resolve_padding(
        size, kernel, stride, "same", dilation
    )


@settings(max_examples=300, deadline=None)
@given(SIZES, WINDOWS, st.integers(0, 4))
def test_ceil_mode_counts_windows_that_start_inside(size, window, padding):
    kernel, stride, dilation = window
    reach = (kernel - 1) * dilation + 1
    assume(size + 2 * padding >= reach)
    full = list(range(0, size + 2 * padding - reach + 1, stride))
    after = full[-1] + stride
    hangs_over = full[-1] + reach < size + 2 * padding and after < size + padding
    assert shapes.conv_output_size(size, kernel, stride, padding, dilation, ceil_mode=True) == len(full) + hangs_over


def test_ceil_mode_published_sizes():
    # GoogLeNet in torchvision: three 3/2 pools and one 2/2, all in ceil mode.
    assert shapes.conv_output_size(112, 3, 2, ceil_mode=True) == 56
    assert shapes.window_padding(112, 3, 2, 0, ceil_mode=True) == (0, 1)
    assert shapes.conv_output_size(113, 3, 2, ceil_mode=True) == 56
    assert shapes.conv_output_size(113, 3, 2, "SAME") == 57
    assert shapes.conv_output_size(15, 2, 2, ceil_mode=True) == 8


def test_sizes_are_torchs():
    """In ceil mode, with output padding: on torch's meta device, which computes nothing."""
    torch = pytest.importorskip("torch")
    counts = dict.fromkeys(("conv", "pool", "transposed", "refused", "hanging"), 0)
    for window, rng in draw_windows(900):
        n, k, s = window["size"], window["kernel"], window["stride"]
        p, d, extra = (int(rng.integers(low, high)) for low, high in ((0, k // 2 + 1), (1, 4), (0, s)))
        ceil, reach = bool(rng.integers(2)), (k - 1) * d + 1
        x = torch.empty(1, 1, n, device="meta")
        weight = torch.empty(1, 1, k, device="meta")
        if n + 2 * p >= reach:
            counts["conv"] += 1
            theirs = torch.nn.functional.conv1d(x, weight, None, s, p, d)
            assert shapes.conv_output_size(n, k, s, p, d) == theirs.shape[2]
        try:
            pooled = torch.nn.functional.max_pool1d(x, k, s, p, d, ceil_mode=ceil)
        except RuntimeError:
            counts["refused"] += 1
            with pytest.raises(ValueError, match="no larger than the padded size"):
                shapes.conv_output_size(n, k, s, p, d, ceil_mode=ceil)
        else:
            counts["pool"] += 1
            counts["hanging"] += n + 2 * p < reach
            assert shapes.conv_output_size(n, k, s, p, d, ceil_mode=ceil) == pooled.shape[2], (n, k, s, p, d, ceil)
        if (n - 1) * s - 2 * p + reach + extra > 0:
            counts["transposed"] += 1
            theirs = torch.nn.functional.conv_transpose1d(x, weight, None, s, p, extra, 1, d)
            assert shapes.conv_transpose_output_size(n, k, s, p, d, extra) == theirs.shape[2]
    assert min(counts[kind] for kind in ("conv", "pool", "transposed")) > 500
    assert min(counts.values()) > 5


def test_explain_names_the_unread_pixels():
    seen = shapes.explain(10, kernel=2, stride=4, padding=(1, 0))
    assert (seen.output, seen.padding, seen.starts, seen.unread) == (3, (1, 0), (-1, 3, 7), (1, 2, 5, 6, 9))
    assert "pixels never read: 1-2, 5-6, 9" in str(seen)
    assert "not whole: 1 of stride 4" in str(seen)
    assert (shapes.explain(224, 7, 2, 3).unread, shapes.explain(224, 7, 2, 3).remainder) == ((), 1)
    assert "(uneven)" in str(shapes.explain(224, 7, 2, "SAME"))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation"),
    [(5, 2, 3, 0, 1), (4, 3, 2, (1, 4), 2), (4, 3, 2, "SAME", 1), (3, 2, 4, "VALID", 1)],
)
def test_explain_transpose_equals_what_a_transposed_convolution_writes(size, kernel, stride, padding, dilation):
    seen = shapes.explain_transpose(size, kernel, stride, padding, dilation)
    sides = padding if isinstance(padding, str) else [(padding, padding) if isinstance(padding, int) else padding]

    def conv(x):
        return lax.conv_transpose(
            x, jnp.ones((kernel, 1, 1)), (stride,), sides, rhs_dilation=(dilation,), use_consistent_padding=True
        )

    y, vjp = jax.vjp(conv, jnp.ones((1, size, 1)))
    assert (seen.output, len(seen.starts)) == (y.shape[1], size)
    assert seen.unwritten == tuple(np.flatnonzero(np.asarray(y) == 0))
    assert seen.unread == tuple(np.flatnonzero(np.asarray(vjp(jnp.ones(y.shape))[0]) == 0))
    assert "transposed" in str(seen)
    assert f"the output is 0 to {y.shape[1] - 1}" in str(seen)


@settings(max_examples=100, deadline=None)
@given(SIZES, WINDOWS, PADDINGS, st.booleans())
def test_explain_agrees_with_the_sizes(size, window, padding, ceil_mode):
    kernel, stride, dilation = window
    try:
        output = shapes.conv_output_size(size, kernel, stride, padding, dilation, ceil_mode)
    except ValueError:
        return
    seen = shapes.explain(size, kernel, stride, padding, dilation, ceil_mode)
    assert seen.output == output == len(seen.starts)
    assert str(seen)


@pytest.mark.parametrize(
    ("arguments", "number"),
    [((5, 7), "kernel 7"), ((5, 3, 1, 0, 3), "dilation 3"), ((5, 0), "kernel"), ((5, 3, 1, -3), "(-3, -3)")],
)
def test_impossible_sizes_name_the_number(arguments, number):
    with pytest.raises(ValueError, match="shapes: expected") as caught:
        shapes.conv_output_size(*arguments)
    assert number in str(caught.value)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: shapes.conv_output_size(8, 3, 1.5), "stride to be one integer, got 1.5"),
        (lambda: shapes.conv_output_size("8", 3), "size to be one integer, got '8'"),
        (lambda: shapes.conv_output_size(8, (3, 3)), "kernel to be one integer"),
        (lambda: shapes.conv_output_size(8, 3, padding=1.5), "a pair (low, high), got 1.5"),
        (lambda: shapes.conv_output_size(8, 3, padding=None), "a pair (low, high), got None"),
        (lambda: shapes.conv_output_size(8, 3, padding=(1, 2, 3)), "a pair (low, high), got (1, 2, 3)"),
        (lambda: shapes.same_padding(8, 2.5), "kernel to be one integer"),
        (lambda: shapes.conv_transpose_output_size(4, 3, 2, padding=0.5), "a pair (low, high), got 0.5"),
        (lambda: shapes.conv_transpose_output_size(4, 3, 2, 1, output_padding=-1), "at least 0 pixels, got -1"),
    ],
)
def test_what_is_no_integer_is_refused(call, word):
    with pytest.raises((TypeError, ValueError), match=r"^shapes: expected .*\.$") as caught:
        call()
    assert word in str(caught.value)


def test_a_list_is_a_pair_too():
    assert shapes.conv_output_size(8, 3, padding=[1, 0]) == shapes.conv_output_size(8, 3, padding=(1, 0))


def test_unknown_padding_and_empty_transpose_are_refused():
    with pytest.raises(ValueError, match="'FULL'"):
        shapes.conv_output_size(5, 3, padding="FULL")
    with pytest.raises(ValueError, match="'FULL'"):
        shapes.conv_transpose_output_size(5, 3, padding="FULL")
    with pytest.raises(ValueError, match="nothing left"):
        shapes.conv_transpose_output_size(1, 3, padding=4)


def test_shapes_import_no_jax():
    imported = set()
    for node in ast.walk(ast.parse(Path(shapes.__file__).read_text())):
        if isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
        imported |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
    assert imported == {"dataclasses", "numbers"}


def test_explain_tells_what_ceil_mode_adds():
    seen = shapes.explain(28, 3, stride=2, ceil_mode=True)
    assert (seen.padding, seen.remainder, seen.added) == ((0, 1), 1, 1)
    assert "is not whole without the 1 that ceil mode adds: 1 of stride 2 left over" in str(seen)
    whole = shapes.explain(27, 3, stride=2, ceil_mode=True)
    assert (whole.padding, whole.remainder, whole.added) == ((0, 0), 0, 0)
    assert "whole" not in str(whole)


def test_explain_names_many_unread_pixels_in_a_line():
    seen = shapes.explain(100_000, 3, stride=4)
    assert len(seen.unread) == 25_000
    assert str(seen).splitlines()[-1] == "pixels never read: 3, 7, 11, ..., 99999 (25000 in all)"
    few = shapes.explain(48, 3, stride=4)
    assert str(few).endswith("never read: " + ", ".join(map(str, range(3, 48, 4))))
