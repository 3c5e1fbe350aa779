"""Window arithmetic on plain integers along one axis: output sizes, padding, and where the windows lie. No JAX."""

from dataclasses import dataclass
from numbers import Integral

__all__ = [
    "Explanation",
    "Padding",
    "conv_output_size",
    "conv_transpose_output_size",
    "conv_transpose_padding",
    "explain",
    "explain_transpose",
    "resolve_padding",
    "same_padding",
    "window_padding",
]
Padding = str | int | tuple[int, int]
_MOST_RANGES = 12  # a line of a terminal


def _check(**numbers: int) -> None:
    for name, value in numbers.items():
        if not isinstance(value, Integral):
            raise TypeError(f"shapes: expected {name} to be one integer, got {value!r}. Ask for each axis by itself.")
        if value < 1:
            raise ValueError(f"shapes: expected {name} of at least 1, got {value}. Give a positive integer.")


def same_padding(size: int, kernel: int, stride: int = 1, dilation: int = 1) -> tuple[int, int]:
    """Return the padding (low, high) that `SAME` means along one axis.

    The output has `ceil(size / stride)` positions; of an odd total, the larger half goes to the high side.

    Example:
      >>> same_padding(224, kernel=7, stride=2)
      (2, 3)
    """
    _check(size=size, kernel=kernel, stride=stride, dilation=dilation)
    positions = -(-size // stride)
    total = max((positions - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def resolve_padding(size: int, kernel: int, stride: int, padding: Padding, dilation: int = 1) -> tuple[int, int]:
    """Return a padding in any of its forms as the pair (low, high) along one axis."""
    if isinstance(padding, str):
        word = padding.upper()
        if word == "VALID":
            return 0, 0
        if word in ("SAME", "SAME_LOWER"):
            low, high = same_padding(size, kernel, stride, dilation)
            return (low, high) if word == "SAME" else (high, low)
        raise ValueError(
            f"shapes: expected padding SAME, SAME_LOWER, VALID, an int or pairs, got {padding!r}. Write one of them."
        )
    return _sides(padding)


def _sides(padding: int | tuple[int, int]) -> tuple[int, int]:
    sides = tuple(padding) if isinstance(padding, tuple | list) else (padding, padding)
    if len(sides) != 2 or not all(isinstance(side, Integral) for side in sides):
        raise TypeError(
            f"shapes: expected padding of an axis as a word, an integer or a pair (low, high), got {padding!r}. "
            "Write padding=(1, 1)."
        )
    return int(sides[0]), int(sides[1])


def window_padding(
    size: int, kernel: int, stride: int, padding: Padding, dilation: int = 1, ceil_mode: bool = False
) -> tuple[int, int]:
    """Return the padding (low, high) with which floor arithmetic gives the positions that were asked for.

    In ceil mode the high side grows until the last window fits; a last window that would start beyond the
    image and its low padding is dropped, as PyTorch drops it.
    """
    _check(size=size, kernel=kernel, stride=stride, dilation=dilation)
    low, high = resolve_padding(size, kernel, stride, padding, dilation)
    if size + low + high < 1 or -low > size or -high > size:
        raise ValueError(
            f"shapes: expected padding that leaves pixels, got ({low}, {high}) on size {size}. Cut off fewer pixels."
        )
    reach = (kernel - 1) * dilation + 1
    room = size + low + high - reach
    # In ceil mode a window may be all there is, and hang over the end as a last one may.
    if room < 0 and not (ceil_mode and room > -stride and size + low > 0):
        what = f"kernel {kernel}" if dilation == 1 else f"kernel {kernel} with dilation {dilation} (reach {reach})"
        raise ValueError(
            f"shapes: expected a window no larger than the padded size {size + low + high}, got {what}. "
            "Use a smaller kernel or dilation, more padding, or a larger input."
        )
    if ceil_mode and room % stride and (room // stride + 1) * stride < size + low:
        high += stride - room % stride
    return low, high


def conv_output_size(
    size: int, kernel: int, stride: int = 1, padding: Padding = 0, dilation: int = 1, ceil_mode: bool = False
) -> int:
    """Return how many window positions a convolution or pool has along one axis.

    `floor((size + low + high - dilation * (kernel - 1) - 1) / stride) + 1`, or the ceiling of the quotient.

    Args:
      size: Pixels along the axis.
      kernel: Taps of the window.
      stride: Pixels between two windows.
      padding: `"SAME"`, `"SAME_LOWER"`, `"VALID"`, an integer for both sides, or a pair.
      dilation: Pixels between two taps.
      ceil_mode: Round up, as far as the last window still starts inside the image or its low padding.
    Raises:
      TypeError: If a number is not an integer.
      ValueError: If no window fits; the message says which number is too large.
    Example:
      >>> conv_output_size(224, kernel=7, stride=2, padding=3)
      112
    """
    low, high = window_padding(size, kernel, stride, padding, dilation, ceil_mode)
    return (size + low + high - (kernel - 1) * dilation - 1) // stride + 1


def conv_transpose_padding(kernel: int, stride: int, padding: Padding, dilation: int = 1) -> tuple[int, int]:
    """Return the padding of the stride-dilated input that makes a convolution the transpose of another."""
    _check(kernel=kernel, stride=stride, dilation=dilation)
    reach = (kernel - 1) * dilation + 1
    if isinstance(padding, str):
        word = padding.upper()
        if word == "SAME":
            low = reach - 1 if stride > reach - 1 else -(-(reach + stride - 2) // 2)
            return low, reach + stride - 2 - low
        if word == "VALID":
            return reach - 1, reach + stride - 2 + max(reach - stride, 0) - (reach - 1)
        raise ValueError(f"shapes: expected padding SAME, VALID, an int or pairs, got {padding!r}. Write one of them.")
    low, high = _sides(padding)
    return reach - 1 - low, reach - 1 - high


def conv_transpose_output_size(
    size: int, kernel: int, stride: int = 1, padding: Padding = 0, dilation: int = 1, output_padding: int = 0
) -> int:
    """Return the output size of a transposed convolution along one axis.

    `(size - 1) * stride - low - high + dilation * (kernel - 1) + 1 + output_padding`; `SAME` gives
    `size * stride` and `VALID` `size * stride + max(reach - stride, 0)`. Stride and padding are those of the
    convolution that is transposed; `output_padding` is added to the high side of the output.

    Raises:
      TypeError: If a number is not an integer.
      ValueError: If nothing is left, or `output_padding` is negative or not below the stride.
    Example:
      >>> conv_transpose_output_size(7, kernel=4, stride=2, padding=1)
      14
    """
    _check(size=size, kernel=kernel, stride=stride, dilation=dilation)
    if not isinstance(output_padding, Integral) or output_padding < 0:
        raise ValueError(
            f"shapes: expected output_padding of at least 0 pixels, got {output_padding!r}. Give a whole number."
        )
    if output_padding >= stride:
        raise ValueError(
            f"shapes: expected output_padding below the stride {stride}, got {output_padding}. Pad the result for "
            "more: this only tells apart the sizes that a convolution maps to the same one."
        )
    low, high = conv_transpose_padding(kernel, stride, padding, dilation)
    output = (size - 1) * stride + 1 + low + high + output_padding - (kernel - 1) * dilation
    if output < 1:
        raise ValueError(
            f"shapes: expected padding smaller than the output, got {padding!r} with nothing left. Pad less."
        )
    return output


@dataclass(frozen=True)
class Explanation:
    """Say where the windows lie along one axis.

    Args:
      size: Pixels along the axis.
      kernel: Taps of the window.
      stride: Pixels between two windows.
      dilation: Pixels between two taps.
      output: Output size; the number of windows, unless transposed.
      padding: Pixels added before and after, ceil mode's own among them; cut off the output if transposed.
      starts: First pixel of each window, counted from the first pixel of the image, or of the output if transposed.
      unread: Pixels of the image that no window reads.
      remainder: What is left of `size + padding - reach` once divided by the stride, before ceil mode.
      transposed: Whether each pixel writes a window of the output, where a convolution reads one of the image.
      unwritten: If transposed, pixels of the output that no window writes.
      added: What ceil mode has added to the padding after the image.
    """

    size: int
    kernel: int
    stride: int
    dilation: int
    output: int
    padding: tuple[int, int]
    starts: tuple[int, ...]
    unread: tuple[int, ...]
    remainder: int
    transposed: bool = False
    unwritten: tuple[int, ...] = ()
    added: int = 0

    @property
    def reach(self) -> int:
        """Pixels from a window's first tap to its last."""
        return (self.kernel - 1) * self.dilation + 1

    def __str__(self) -> str:
        low, high = self.padding
        first, last = self.starts[0], self.starts[-1] + self.reach - 1
        grid, pixels = ("output", self.output) if self.transposed else ("image", self.size)
        lines = [
            f"input {self.size}, kernel {self.kernel}, stride {self.stride}, dilation {self.dilation}"
            f"{', transposed' * self.transposed}: output {self.output}",
            f"padding: {low} before, {high} after" + ("" if low == high else " (uneven)"),
            f"windows: {len(self.starts)} of reach {self.reach}, from pixel {first} to pixel {last}; "
            f"the {grid} is 0 to {pixels - 1}",
        ]
        if self.remainder:
            without = f" without the {self.added} that ceil mode adds" if self.added else ""
            lines.append(
                f"(input + padding - reach) / stride is not whole{without}: "
                f"{self.remainder} of stride {self.stride} left over"
            )
        lines.append(f"pixels never read: {_ranges(self.unread)}")
        if self.transposed:
            lines.append(f"pixels never written: {_ranges(self.unwritten)}")
        return "\n".join(lines)


def _ranges(pixels: tuple[int, ...]) -> str:
    breaks = [i for i in range(1, len(pixels)) if pixels[i] != pixels[i - 1] + 1]
    runs = [pixels[a:b] for a, b in zip([0, *breaks], [*breaks, len(pixels)])] if pixels else []
    words = [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    if len(words) > _MOST_RANGES:
        words[3:-1] = ["..."]
        words[-1] += f" ({len(pixels)} in all)"
    return ", ".join(words) or "none"


def explain(
    size: int, kernel: int, stride: int = 1, padding: Padding = 0, dilation: int = 1, ceil_mode: bool = False
) -> Explanation:
    """Work out where the windows of a convolution or pool lie along one axis; `print` shows it in words.

    The arguments are those of `conv_output_size`.

    Example:
      >>> print(explain(8, kernel=3, stride=2, padding=0))
      input 8, kernel 3, stride 2, dilation 1: output 3
      padding: 0 before, 0 after
      windows: 3 of reach 3, from pixel 0 to pixel 6; the image is 0 to 7
      (input + padding - reach) / stride is not whole: 1 of stride 2 left over
      pixels never read: 7
    """
    low, high = window_padding(size, kernel, stride, padding, dilation, ceil_mode)
    output = conv_output_size(size, kernel, stride, padding, dilation, ceil_mode)
    starts = tuple(i * stride - low for i in range(output))
    read = {start + tap * dilation for start in starts for tap in range(kernel)}
    unread = tuple(pixel for pixel in range(size) if pixel not in read)
    reach = (kernel - 1) * dilation + 1
    declared = resolve_padding(size, kernel, stride, padding, dilation)
    remainder = (size + sum(declared) - reach) % stride
    added = max(0, high - declared[1])
    return Explanation(size, kernel, stride, dilation, output, (low, high), starts, unread, remainder, added=added)


def explain_transpose(
    size: int, kernel: int, stride: int = 1, padding: Padding = 0, dilation: int = 1, output_padding: int = 0
) -> Explanation:
    """Work out where the windows that a transposed convolution writes lie along one axis of its output.

    The arguments are those of `conv_transpose_output_size`.

    Example:
      >>> print(explain_transpose(3, kernel=2, stride=3))
      input 3, kernel 2, stride 3, dilation 1, transposed: output 8
      padding: 0 before, 0 after
      windows: 3 of reach 2, from pixel 0 to pixel 7; the output is 0 to 7
      pixels never read: none
      pixels never written: 2, 5
    """
    output = conv_transpose_output_size(size, kernel, stride, padding, dilation, output_padding)
    reach = (kernel - 1) * dilation + 1
    low, high = (reach - 1 - side for side in conv_transpose_padding(kernel, stride, padding, dilation))
    starts = tuple(i * stride - low for i in range(size))
    written = [{p for p in range(start, start + reach, dilation) if 0 <= p < output} for start in starts]
    unread = tuple(pixel for pixel, window in enumerate(written) if not window)
    unwritten = tuple(sorted(set(range(output)).difference(*written)))
    return Explanation(size, kernel, stride, dilation, output, (low, high), starts, unread, 0, True, unwritten)


def __dir__() -> list[str]:
    return __all__
