"""Window arithmetic against jax.eval_shape, jax.lax's own padding and windows counted one by one."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
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


def lax_size(size, kernel, stride, padding, dilation):
    pairs = padding if isinstance(padding, str) else [padding if isinstance(padding, tuple) else (padding, padding)]
    x, k = jax.ShapeDtypeStruct((1, size, 1), jnp.float32), jax.ShapeDtypeStruct((kernel, 1, 1), jnp.float32)

    def conv(x, k):
        return lax.conv_general_dilated(
            x, k, (stride,), pairs, rhs_dilation=(dilation,), dimension_numbers=("NHC", "HIO", "NHC")
        )

    return jax.eval_shape(conv, x, k).shape[1]


@settings(max_examples=2000, deadline=None)
@given(SIZES, WINDOWS, PADDINGS)
def test_output_size_equals_eval_shape(size, window, padding):
    kernel, stride, dilation = window
    try:
        ours = shapes.conv_output_size(size, kernel, stride, padding, dilation)
    except ValueError:
        low, high = shapes.resolve_padding(size, kernel, stride, padding, dilation)
        assert size + low + high < (kernel - 1) * dilation + 1 or -low > size or -high > size
        return
    assert ours == lax_size(size, kernel, stride, padding, dilation)


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
    assert shapes.conv_output_size(113, 3, 2, ceil_mode=True) == 56
    assert shapes.conv_output_size(113, 3, 2, "SAME") == 57
    assert shapes.conv_output_size(15, 2, 2, ceil_mode=True) == 8


@settings(max_examples=200, deadline=None)
@given(SIZES, WINDOWS, st.sampled_from(["SAME", "VALID", 0, 1, (0, 1), (2, 1)]))
def test_transposed_size_equals_eval_shape(size, window, padding):
    kernel, stride, dilation = window
    pairs = padding if isinstance(padding, str) else [padding if isinstance(padding, tuple) else (padding, padding)]
    x, k = jax.ShapeDtypeStruct((1, size, 1), jnp.float32), jax.ShapeDtypeStruct((kernel, 1, 1), jnp.float32)

    def conv(x, k):
        return lax.conv_transpose(x, k, (stride,), pairs, rhs_dilation=(dilation,), use_consistent_padding=True)

    try:
        ours = shapes.conv_transpose_output_size(size, kernel, stride, padding, dilation)
    except ValueError:
        return
    assert ours == jax.eval_shape(conv, x, k).shape[1]


def test_explain_names_the_unread_pixels():
    seen = shapes.explain(10, kernel=2, stride=4, padding=(1, 0))
    assert (seen.output, seen.padding, seen.starts, seen.unread) == (3, (1, 0), (-1, 3, 7), (1, 2, 5, 6, 9))
    assert "pixels never read: 1-2, 5-6, 9" in str(seen)
    assert "not whole: 1 of stride 4" in str(seen)
    assert (shapes.explain(224, 7, 2, 3).unread, shapes.explain(224, 7, 2, 3).remainder) == ((), 1)
    assert "(uneven)" in str(shapes.explain(224, 7, 2, "SAME"))


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


def test_unknown_padding_and_empty_transpose_are_refused():
    with pytest.raises(ValueError, match="'FULL'"):
        shapes.conv_output_size(5, 3, padding="FULL")
    with pytest.raises(ValueError, match="'FULL'"):
        shapes.conv_transpose_output_size(5, 3, padding="FULL")
    with pytest.raises(ValueError, match="nothing left"):
        shapes.conv_transpose_output_size(1, 3, padding=4)


def test_shapes_import_no_jax():
    tree = ast.parse(Path(shapes.__file__).read_text())
    names = {
        n.module if isinstance(n, ast.ImportFrom) else a.name
        for n in ast.walk(tree)
        if isinstance(n, ast.Import | ast.ImportFrom)
        for a in n.names
    }
    assert names == {"dataclasses"}
