"""The shapes of one convolution, as everything in this room needs them."""

from dataclasses import dataclass

Pair = tuple[int, int]
ROLES = ("out", "lhs", "rhs")


@dataclass(frozen=True)
class ConvSpec:
    """Describe a convolution `[N, H, W, C] * [KH, KW, C, O] -> [N, H', W', O]` without groups.

    Args:
      lhs_shape: Shape of the images.
      rhs_shape: Shape of the kernel.
      strides: Pixels between windows.
      padding: Pixels added (before, after) on each axis; negative ones are cut off.
      dilation: Pixels between the kernel's taps.
      exact: Whether algorithms that spread a non-finite value to its neighbours are forbidden.
    """

    lhs_shape: tuple[int, int, int, int]
    rhs_shape: tuple[int, int, int, int]
    strides: Pair
    padding: tuple[Pair, Pair]
    dilation: Pair
    exact: bool = False

    @property
    def out_sizes(self) -> Pair:
        """Height and width of the output."""
        height, width = (
            (n + low + high - (k - 1) * d - 1) // s + 1
            for n, k, (low, high), s, d in zip(
                self.lhs_shape[1:3], self.rhs_shape[:2], self.padding, self.strides, self.dilation
            )
        )
        return height, width

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        """Shape of the output."""
        return (self.lhs_shape[0], *self.out_sizes, self.rhs_shape[3])

    @property
    def lhs_padding(self) -> tuple[Pair, Pair]:
        """Padding with which the turned kernel runs over the gradients, apart by the strides, to give the images'."""
        rows, columns = (
            ((k - 1) * d - low, n + low - (m - 1) * s - 1)
            for n, k, m, s, d, (low, _) in zip(
                self.lhs_shape[1:3], self.rhs_shape, self.out_sizes, self.strides, self.dilation, self.padding
            )
        )
        return rows, columns

    def shape(self, role: str) -> tuple[int, ...]:
        """Return the shape of what a role computes."""
        return {"out": self.out_shape, "lhs": self.lhs_shape, "rhs": self.rhs_shape}[role]

    @property
    def macs(self) -> int:
        """Multiplications of the direct convolution, the same in every role."""
        kh, kw, channels, features = self.rhs_shape
        return self.out_shape[0] * self.out_shape[1] * self.out_shape[2] * kh * kw * channels * features
