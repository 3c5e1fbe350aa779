"""Output sizes and padding of convolutions, transposed convolutions and pools along one axis."""

from numbers import Integral

Padding = str | int | tuple[int, int]


def _check(**numbers: int) -> None:
    for name, value in numbers.items():
        if not isinstance(value, Integral):
            raise TypeError(f"shapes: expected {name} to be one integer, got {value!r}. Ask for each axis by itself.")
        if value < 1:
            raise ValueError(f"shapes: expected {name} of at least 1, got {value}. Give a positive integer.")


def same_padding(size: int, kernel: int, stride: int = 1, dilation: int = 1) -> tuple[int, int]:
    """Return the padding (low, high) that `SAME` means along one axis.

    The output has `ceil(size / stride)` positions; of an odd total, the larger half goes to the high side.

    Args:
      size: Pixels along the axis.
      kernel: Taps of the window.
      stride: Pixels between two windows.
      dilation: Pixels between two taps.
    Returns:
      Pixels added before and after.
    Example:
      >>> same_padding(224, kernel=7, stride=2)
      (2, 3)
    """
    _check(size=size, kernel=kernel, stride=stride, dilation=dilation)
    positions = -(-size // stride)
    total = max((positions - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def resolve_padding(size: int, kernel: int, stride: int, padding: Padding, dilation: int = 1) -> tuple[int, int]:
    """Return a padding in any of its forms as the pair (low, high) along one axis.

    Example:
      >>> resolve_padding(32, kernel=5, stride=1, padding="SAME")
      (2, 2)
    """
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

    Raises:
      ValueError: If no window fits, or negative padding leaves nothing.
    Example:
      >>> window_padding(112, kernel=3, stride=2, padding=0, ceil_mode=True)
      (0, 1)
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
    Returns:
      The number of positions.
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
    """Return the padding of the stride-dilated input that makes a convolution the transpose of another.

    Example:
      >>> conv_transpose_padding(kernel=4, stride=2, padding=1)
      (2, 2)
    """
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
    `size * stride` and `VALID` `size * stride + max(reach - stride, 0)`.

    Args:
      size: Pixels along the axis.
      kernel: Taps of the window.
      stride: Stride of the convolution that is transposed.
      padding: Padding of the convolution that is transposed.
      dilation: Pixels between two taps.
      output_padding: Pixels added to the high side of the output.
    Returns:
      The output size.
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
