"""The transposed convolution."""

from numbers import Integral

import jax
from jax import lax

from cnnjax import shapes
from cnnjax.ops.arguments import PaddingLike, Size, images, pair, per_axis
from cnnjax.ops.conv import NHWC, add_bias, conv_general_dilated, kernel_array, operands


def conv_transpose2d(
    x,
    kernel,
    bias=None,
    *,
    strides: Size = 1,
    padding: PaddingLike = "SAME",
    kernel_dilation: Size = 1,
    output_padding: int = 0,
    transpose_kernel: bool = False,
) -> jax.Array:
    """Upsample with a fractionally strided convolution, the transpose of `conv2d` with the same window.

    Size: `(H - 1) * s - top - bottom + d * (KH - 1) + 1 + output_padding`; `SAME` gives `H * s`. By default the
    kernel is used as it is (`jax.lax.conv_transpose`, Flax); with `transpose_kernel` it is flipped and its channel axes
    swapped, which makes the op the exact gradient of `conv2d` (Keras, PyTorch).

    Args:
      x: Images, `[N, H, W, C]`.
      kernel: `[KH, KW, C, O]`, or `[KH, KW, O, C]` with `transpose_kernel`; the dtype of x.
      bias: `[O]`, or None.
      strides: Stride of the convolution that is transposed, one integer or two.
      padding: Padding of the convolution that is transposed: `"SAME"`, `"VALID"`, an integer, or pairs.
      kernel_dilation: Pixels between the kernel's taps.
      output_padding: Rows and columns added at the bottom and right.
      transpose_kernel: Whether the kernel is the one of the convolution that is transposed.
    Returns:
      `[N, H', W', O]`, the dtype of x.
    Raises:
      TypeError: If a dtype is not numeric or the two differ.
      ValueError: If ranks or channels don't fit, or nothing is left.
    Example:
      >>> import jax.numpy as jnp
      >>> conv_transpose2d(jnp.ones((1, 7, 7, 2)), jnp.ones((4, 4, 2, 3)), strides=2, padding=1).shape
      (1, 14, 14, 3)
    """
    op = "conv_transpose2d"
    if not isinstance(output_padding, Integral) or output_padding < 0:
        raise ValueError(
            f"{op}: expected output_padding as one integer of at least 0, got {output_padding!r}. Pad more to get less."
        )
    kernel = kernel_array(op, kernel)
    if transpose_kernel:
        channels = images(op, x).shape[3]
        if kernel.shape[3] != channels:
            raise ValueError(
                f"{op}: expected a kernel [H, W, O, {channels}] for x {x.shape}, got {kernel.shape}. "
                f"Make the kernel's fourth axis {channels}, or leave transpose_kernel out."
            )
        kernel = lax.transpose(lax.rev(kernel, (0, 1)), (0, 1, 3, 2))
    x, kernel = operands(op, x, kernel, 1)
    strides, dilation = pair(op, "strides", strides), pair(op, "kernel_dilation", kernel_dilation)
    sides, taps = per_axis(op, padding), kernel.shape[:2]
    try:
        for n, k, s, p, d in zip(x.shape[1:3], taps, strides, sides, dilation):
            shapes.conv_transpose_output_size(n, k, s, p, d, output_padding)
        pads = [shapes.conv_transpose_padding(k, s, p, d) for k, s, p, d in zip(taps, strides, sides, dilation)]
    except ValueError as error:
        raise ValueError(str(error).replace("shapes:", f"{op}:", 1)) from None
    pads = [(low, high + output_padding) for low, high in pads]
    y = conv_general_dilated(x, kernel, (1, 1), pads, strides, dilation, NHWC)
    return add_bias(op, y, bias)
