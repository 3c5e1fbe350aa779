"""Where the windows lie along one axis, in words and numbers."""

from dataclasses import dataclass

from cnnjax.shapes.sizes import (
    Padding,
    conv_output_size,
    conv_transpose_output_size,
    conv_transpose_padding,
    resolve_padding,
    window_padding,
)


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


_MOST_RANGES = 12  # a line of a terminal


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
    """Work out where the windows of a convolution or pool lie along one axis.

    Args:
      size: Pixels along the axis.
      kernel: Taps of the window.
      stride: Pixels between two windows.
      padding: `"SAME"`, `"SAME_LOWER"`, `"VALID"`, an integer for both sides, or a pair.
      dilation: Pixels between two taps.
      ceil_mode: Round the number of positions up.
    Returns:
      Positions, padding and unread pixels; `print` shows them in words.
    Raises:
      ValueError: If no window fits.
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

    Args:
      size: Pixels along the axis.
      kernel: Taps of the window.
      stride: Stride of the convolution that is transposed: output pixels between two windows.
      padding: Padding of the convolution that is transposed: what is cut off the output.
      dilation: Pixels between two taps.
      output_padding: Pixels added to the high side of the output.
    Returns:
      Positions, padding, pixels that write nothing and output pixels that nothing is written to.
    Raises:
      ValueError: If nothing is left.
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
