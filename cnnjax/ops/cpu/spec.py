"""The shapes of one convolution, as everything in this room needs them."""

from dataclasses import dataclass

Pair = tuple[int, int]
ROLES = ("forward", "input_grad", "kernel_grad")


@dataclass(frozen=True)
class ConvSpec:
    """The shapes of a convolution `[N, H, W, C] * [KH, KW, C / groups, O] -> [N, H', W', O]`.

    Args:
      input_shape: Shape of the images.
      kernel_shape: Shape of the kernel.
      strides: Pixels between windows.
      padding: Pixels added (before, after) on each axis; negative ones are cut off.
      dilation: Pixels between the kernel's taps.
      groups: Groups of channels that don't mix.
      exact: Whether algorithms that spread a non-finite value to its neighbours are forbidden.
    """

    input_shape: tuple[int, int, int, int]
    kernel_shape: tuple[int, int, int, int]
    strides: Pair
    padding: tuple[Pair, Pair]
    dilation: Pair
    groups: int = 1
    exact: bool = False

    @property
    def output_sizes(self) -> Pair:
        """Height and width of the output."""
        height, width = (
            (n + low + high - (k - 1) * d - 1) // s + 1
            for n, k, (low, high), s, d in zip(
                self.input_shape[1:3], self.kernel_shape[:2], self.padding, self.strides, self.dilation
            )
        )
        return height, width

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """Shape of the output."""
        return (self.input_shape[0], *self.output_sizes, self.kernel_shape[3])

    @property
    def input_grad_padding(self) -> tuple[Pair, Pair]:
        """Padding with which the turned kernel runs over the gradients, apart by the strides, to give the images'."""
        rows, columns = (
            ((k - 1) * d - low, n + low - (m - 1) * s - 1)
            for n, k, m, s, d, (low, _) in zip(
                self.input_shape[1:3], self.kernel_shape, self.output_sizes, self.strides, self.dilation, self.padding
            )
        )
        return rows, columns

    def shape(self, role: str) -> tuple[int, ...]:
        """Return the shape of what a role computes."""
        return {"forward": self.output_shape, "input_grad": self.input_shape, "kernel_grad": self.kernel_shape}[role]

    @property
    def macs(self) -> int:
        """Multiplications of the direct convolution, the same in every role."""
        kh, kw, channels, features = self.kernel_shape
        return self.output_shape[0] * self.output_shape[1] * self.output_shape[2] * kh * kw * channels * features
