"""What users write for windows, strides and padding, checked and made plain."""

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Size = int | Sequence[int]
Pair = tuple[int, int]
PaddingLike = str | int | Sequence[int | Sequence[int]]


def images(op: str, x) -> jax.Array:
    """Return x as an array after checking that it is a batch of images, `[N, H, W, C]`."""
    x = as_numbers(op, "x", x)
    if x.ndim != 4:
        hint = " Reshape x."
        if x.ndim == 3:
            hint = " Add the axis that is missing: x[None] for the batch's, x[..., None] for the channels'."
        raise ValueError(f"{op}: expected x of rank 4 [N, H, W, C], got shape {x.shape}.{hint}")
    return x


def refuse_foreign(op: str, name: str, x, channels_last: str = "") -> None:
    """Raise with the way to convert x if it is another library's tensor."""
    library = type(x).__module__.partition(".")[0]
    if library == "torch":
        way = f"{name}.detach().cpu(){channels_last}.numpy()"
    elif library in ("tensorflow", "keras"):
        way = f"{name}.numpy()"
    else:
        return
    raise TypeError(f"{op}: expected {name} as a JAX or NumPy array, got {library}'s {type(x).__name__}. Give {way}.")


def floating(op: str, dtype: Any) -> Any:
    """Return a layer's dtype, which may be None, after checking that it is one."""
    try:
        known = dtype is None or jnp.issubdtype(jnp.dtype(dtype), jnp.inexact)
    except TypeError:
        known = False
    if not known:
        raise TypeError(f"{op}: expected dtype as float32, bfloat16 or float16, got {dtype!r}. Give jnp.float32.")
    return dtype


def as_numbers(op: str, name: str, x) -> jax.Array:
    """Return x as an array after checking that it holds numbers."""
    refuse_foreign(op, name, x, ".permute(0, 2, 3, 1)" if name == "x" else "")
    try:
        x = jnp.asarray(x)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{op}: expected {name} to be a numeric array, got {type(x).__name__}. Convert it.") from error
    if not jnp.issubdtype(x.dtype, jnp.number):
        raise TypeError(f"{op}: expected {name} of a numeric dtype, got {x.dtype}. Cast it: {name}.astype('float32').")
    return x


def pair(op: str, name: str, value: Size, least: int = 1) -> Pair:
    """Return one integer or two as two of at least 1, or `least` (height, width)."""
    if isinstance(value, jax.Array | np.ndarray) and value.ndim == 0:
        value = value.item()  # it has no length, though its type has
    numbers: tuple[Any, ...] = tuple(value) if isinstance(value, Iterable) else (value, value)
    if len(numbers) != 2 or not all(isinstance(n, Integral) and int(n) >= least for n in numbers):
        kind = "positive integers" if least else "integers of at least 0"
        raise ValueError(
            f"{op}: expected {name} of one or two {kind}, got {value!r}. "
            f"Write {name}=2 for both axes, or {name}=(2, 3) for height and width."
        )
    return int(numbers[0]), int(numbers[1])


def per_axis(op: str, padding: PaddingLike) -> tuple[str, str] | tuple[Pair, Pair]:
    """Return padding in any of its forms as one word or one pair an axis (height, width)."""
    if isinstance(padding, str):
        return padding, padding
    sides = tuple(padding) if isinstance(padding, Iterable) else (padding, padding)
    pairs = [tuple(side) if isinstance(side, Iterable) else (side, side) for side in sides]
    if len(pairs) != 2 or not all(len(p) == 2 and all(isinstance(n, Integral) for n in p) for p in pairs):
        raise ValueError(
            f"{op}: expected padding as a word, an int or two pairs, got {padding}. "
            "Write padding=((top, bottom), (left, right))."
        )
    (top, bottom), (left, right) = pairs
    return (int(top), int(bottom)), (int(left), int(right))
