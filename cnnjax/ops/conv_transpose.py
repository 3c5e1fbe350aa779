"""The transposed convolution."""

from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Num

from cnnjax import shapes
from cnnjax.ops import bilinear
from cnnjax.ops.arguments import PaddingLike, Size, images, pair, per_axis
from cnnjax.ops.conv import NHWC, add_bias, check_groups, conv_general_dilated, kernel_array, operands


def conv_transpose2d(
    x: Num[ArrayLike, "n h w c"],
    kernel: Num[ArrayLike, "kh kw i o"],
    bias: Num[ArrayLike, " o"] | None = None,
    *,
    strides: Size = 1,
    padding: PaddingLike = "SAME",
    kernel_dilation: Size = 1,
    output_padding: Size = 0,
    feature_group_count: int = 1,
    transpose_kernel: bool = False,
) -> Num[Array, "n h2 w2 o"]:
    """Upsample with a fractionally strided convolution, the transpose of `conv2d` with the same window.

    Size: `(H - 1) * s - top - bottom + d * (KH - 1) + 1 + output_padding`; `SAME` gives `H * s`. By default the
    kernel is used as it is (`jax.lax.conv_transpose`, Flax); with `transpose_kernel` it is flipped and its channel axes
    swapped, which makes the op the exact gradient of `conv2d` (Keras, PyTorch).

    Args:
      x: Images.
      kernel: `[KH, KW, C / feature_group_count, O]`, or `[KH, KW, O / feature_group_count, C]` with `transpose_kernel`;
        the dtype of x.
      bias: One number a feature, or None.
      strides: Stride of the convolution that is transposed, one integer or two.
      padding: Padding of the convolution that is transposed: `"SAME"`, `"VALID"`, an integer, or pairs.
      kernel_dilation: Pixels between the kernel's taps.
      output_padding: Rows and columns added at the bottom and right, one integer or two, below the strides.
      feature_group_count: Groups of channels that don't mix.
      transpose_kernel: Whether the kernel is the one of the convolution that is transposed.
    Raises:
      TypeError: If a dtype is not numeric or the two differ.
      ValueError: If ranks, channels or groups don't fit, nothing is left, or `output_padding` is not below the strides.
    Example:
      >>> import jax.numpy as jnp
      >>> conv_transpose2d(jnp.ones((1, 7, 7, 2)), jnp.ones((4, 4, 2, 3)), strides=2, padding=1).shape
      (1, 14, 14, 3)
    """
    op = "conv_transpose2d"
    x, kernel, groups = images(op, x), kernel_array(op, kernel), feature_group_count
    if transpose_kernel:
        kernel = _forward_kernel(op, x, kernel, groups)
    x, kernel = operands(op, x, kernel, groups)
    strides, dilation = pair(op, "strides", strides), pair(op, "kernel_dilation", kernel_dilation)
    more = pair(op, "output_padding", output_padding, least=0)
    sides, taps, sizes = per_axis(op, padding), kernel.shape[:2], x.shape[1:3]
    try:
        for n, k, s, p, d, extra in zip(sizes, taps, strides, sides, dilation, more):
            shapes.conv_transpose_output_size(n, k, s, p, d, extra)  # only to refuse what has none
        pads = [shapes.conv_transpose_padding(k, s, p, d) for k, s, p, d in zip(taps, strides, sides, dilation)]
    except ValueError as error:
        raise ValueError(str(error).replace("shapes:", f"{op}:", 1)) from None
    pads = [(low, high + extra) for (low, high), extra in zip(pads, more)]
    if groups == 1:
        # As the role of the primitive that it is at stride 1 too: its multiplications are those of the convolution.
        spec = bilinear.cpu_transposed_conv_spec(x, kernel, strides, pads, dilation)
        if spec is not None:
            return add_bias(op, bilinear.convolve_transposed(x, kernel, spec), bias)
    y = conv_general_dilated(x, kernel, (1, 1), pads, strides, dilation, NHWC, feature_group_count=groups)
    return add_bias(op, y, bias)


def _forward_kernel(op, x, kernel, groups):
    """Return the kernel of a convolution, `[KH, KW, O / groups, C]`, turned round: `[KH, KW, C / groups, O]`."""
    channels = x.shape[3]
    check_groups(op, channels, groups, groups)
    if kernel.shape[3] != channels:
        raise ValueError(
            f"{op}: expected a kernel [H, W, O, {channels}] for x {x.shape}, got {kernel.shape}. "
            f"Make the kernel's fourth axis {channels}, or leave transpose_kernel out."
        )
    split = lax.rev(kernel, (0, 1)).reshape(*kernel.shape[:3], groups, channels // groups)
    return split.transpose(0, 1, 4, 3, 2).reshape(*kernel.shape[:2], channels // groups, -1)
