"""Convolutions of images `[N, H, W, C]` with kernels `[H, W, I, O]`."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Num

from cnnjax import shapes
from cnnjax.ops import bilinear
from cnnjax.ops.arguments import PaddingLike, Size, as_numbers, images, pair, per_axis
from cnnjax.ops.channels import broadcast_channels
from cnnjax.ops.xla_faults import hide_constant, platform_conv

NHWC = ("NHWC", "HWIO", "NHWC")


def conv_general_dilated(
    lhs: Num[ArrayLike, "*lhs"],
    rhs: Num[ArrayLike, "*rhs"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> Num[Array, "*out"]:
    """Do what `jax.lax.conv_general_dilated` does, argument for argument.

    Give it to any Flax module: `nn.Conv(..., conv_general_dilated=cnnjax.ops.conv_general_dilated)`.

    Args:
      lhs: Input, by default `[N, C, H, W]`.
      rhs: Kernel, by default `[O, I, H, W]`.
      window_strides: Pixels between windows, one an axis.
      padding: `"SAME"`, `"SAME_LOWER"`, `"VALID"` or a pair an axis.
      lhs_dilation: Pixels between the input's pixels.
      rhs_dilation: Pixels between the kernel's taps.
      dimension_numbers: Layouts of input, kernel and output, such as `("NHWC", "HWIO", "NHWC")`.
      feature_group_count: Groups of channels.
      batch_group_count: Groups of the batch.
      precision: As in `jax.lax`.
      preferred_element_type: Type of the sums and of the output.
      out_sharding: As in `jax.lax`.
    Returns:
      The convolution, in the layout that `dimension_numbers` asks for.
    """
    options = {
        "lhs_dilation": lhs_dilation,
        "rhs_dilation": rhs_dilation,
        "dimension_numbers": dimension_numbers,
        "feature_group_count": feature_group_count,
        "batch_group_count": batch_group_count,
        "preferred_element_type": preferred_element_type,
        "out_sharding": out_sharding,
    }
    spec = bilinear.cpu_conv_spec(lhs, rhs, window_strides, padding, **options)
    if spec is None and precision is None:
        transposed = bilinear.cpu_dilated_conv_spec(lhs, rhs, window_strides, padding, **options)
        if transposed is not None:
            return bilinear.convolve_transposed(lhs, rhs, transposed)
    if spec is not None or feature_group_count == batch_group_count == 1:
        # XLA for the CPU miscompiles constant kernels, but not those of its own convolution of groups.
        rhs = hide_constant(rhs)
    if spec is None:
        return platform_conv(lhs, rhs, window_strides, padding, precision=precision, **options)
    return bilinear.convolve(lhs, rhs, spec, precision)


def kernel_array(op: str, kernel) -> jax.Array:
    """Return the kernel as an array after checking that it has four axes."""
    kernel = as_numbers(op, "kernel", kernel)
    if kernel.ndim != 4:
        raise ValueError(f"{op}: expected kernel of rank 4 [H, W, I, O], got shape {kernel.shape}. Reshape it.")
    return kernel


def operands(op: str, x, kernel, groups: int):
    """Return x and kernel after checking ranks, dtypes and channels."""
    x, kernel = images(op, x), kernel_array(op, kernel)
    if x.dtype != kernel.dtype:
        # Cast to integers, a kernel of fractions would be nothing but zeros.
        cast = "kernel.astype(x.dtype)" if jnp.issubdtype(x.dtype, jnp.inexact) else "x.astype(kernel.dtype)"
        raise TypeError(
            f"{op}: expected x and kernel of one dtype, got {x.dtype} and {kernel.dtype}. Cast one: {cast}."
        )
    channels, per_group, features = x.shape[3], kernel.shape[2], kernel.shape[3]
    check_groups(op, channels, features, groups)
    if per_group * groups != channels:
        if per_group * groups == x.shape[1]:
            raise ValueError(
                f"{op}: expected x [N, H, W, {x.shape[1]}] for kernel {kernel.shape}, got {x.shape}, channels first. "
                "Move them to the end: x.transpose(0, 2, 3, 1)."
            )
        raise ValueError(
            f"{op}: expected a kernel with {channels // groups} input channels for x {x.shape} in {groups} group(s), "
            f"got kernel {kernel.shape}. Make the kernel's third axis {channels // groups}."
        )
    return x, kernel


def check_groups(op: str, channels: int, features: int, groups: int) -> None:
    """Raise unless groups divide both."""
    if not isinstance(groups, Integral) or groups < 1 or channels % groups or features % groups:
        raise ValueError(
            f"{op}: expected feature_group_count to divide the {channels} channels of x and the {features} features "
            f"of the kernel, got {groups!r}. Change the groups or the features."
        )


def add_bias(op: str, y, bias):
    if bias is None:
        return y
    bias = as_numbers(op, "bias", bias)
    if bias.shape != y.shape[3:]:
        raise ValueError(f"{op}: expected bias of shape {y.shape[3:]}, got {bias.shape}. Give one number a feature.")
    return y + broadcast_channels(bias.astype(y.dtype), y)


def _pads(op, sizes, taps, strides, padding, dilation):
    """Return padding as pairs, after checking that a window fits; the error names the op."""
    sides: Any = per_axis(op, padding)
    if not all(isinstance(size, int) for size in sizes):  # unknown while a function is exported: jax.lax checks them
        return padding if isinstance(padding, str) else sides
    try:
        return [shapes.window_padding(n, k, s, p, d) for n, k, s, p, d in zip(sizes, taps, strides, sides, dilation)]
    except ValueError as error:
        raise ValueError(str(error).replace("shapes:", f"{op}:", 1)) from None


def conv2d(
    x: Num[ArrayLike, "n h w c"],
    kernel: Num[ArrayLike, "kh kw i o"],
    bias: Num[ArrayLike, " o"] | None = None,
    *,
    strides: Size = 1,
    padding: PaddingLike = "SAME",
    kernel_dilation: Size = 1,
    feature_group_count: int = 1,
) -> Num[Array, "n h2 w2 o"]:
    """Cross-correlate images with a kernel, as CNNs do.

    `y[n, i, j, o] = bias[o] + sum x[n, i * s + a * d - p, j * s + b * d - p, c] * kernel[a, b, c, o]`

    Args:
      x: Images.
      kernel: The taps, `i` being `c / feature_group_count`; of the dtype of x.
      bias: One number a feature, or None.
      strides: Pixels between windows, one integer or two.
      padding: `"SAME"`, `"SAME_LOWER"`, `"VALID"`, an integer, or `((top, bottom), (left, right))`.
      kernel_dilation: Pixels between the kernel's taps.
      feature_group_count: Groups of channels that don't mix.
    Raises:
      TypeError: If a dtype is not numeric or the two differ.
      ValueError: If ranks, channels or groups don't fit, or no window does.
    Example:
      >>> conv2d(jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 2, 4)), padding="VALID").shape
      (1, 3, 3, 4)
    """
    return _conv2d("conv2d", x, kernel, bias, strides, padding, kernel_dilation, feature_group_count)


def _conv2d(op, x, kernel, bias, strides, padding, kernel_dilation, groups):
    x, kernel = operands(op, x, kernel, groups)
    strides = pair(op, "strides", strides)
    dilation = pair(op, "kernel_dilation", kernel_dilation)
    pads = _pads(op, x.shape[1:3], kernel.shape[:2], strides, padding, dilation)
    y = conv_general_dilated(
        x, kernel, strides, pads, rhs_dilation=dilation, dimension_numbers=NHWC, feature_group_count=groups
    )
    return add_bias(op, y, bias)


def convolve2d(
    x: Num[ArrayLike, "n h w c"],
    kernel: Num[ArrayLike, "kh kw i o"],
    bias: Num[ArrayLike, " o"] | None = None,
    *,
    strides: Size = 1,
    padding: PaddingLike = "SAME",
    kernel_dilation: Size = 1,
    feature_group_count: int = 1,
) -> Num[Array, "n h2 w2 o"]:
    """Convolve images with a kernel in the mathematical sense: the kernel is flipped.

    `convolve2d(x, kernel) == conv2d(x, kernel[::-1, ::-1])`. Kernels of even size have no centre: there `"SAME"` pads
    more after the image, as everywhere in JAX, and `"SAME_LOWER"` is `scipy.signal.convolve2d(mode="same")`.

    The arguments are those of `conv2d`.

    Example:
      >>> x = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1, 0].set(1.0)  # an impulse answers with the kernel itself
      >>> convolve2d(x, jnp.arange(9.0).reshape(3, 3, 1, 1))[0, :, :, 0].tolist()
      [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]
    """
    operands("convolve2d", x, kernel, feature_group_count)
    flipped = lax.rev(jnp.asarray(kernel), (0, 1))
    return _conv2d("convolve2d", x, flipped, bias, strides, padding, kernel_dilation, feature_group_count)


def depthwise_conv2d(
    x: Num[ArrayLike, "n h w c"],
    kernel: Num[ArrayLike, "kh kw 1 o"],
    bias: Num[ArrayLike, " o"] | None = None,
    *,
    strides: Size = 1,
    padding: PaddingLike = "SAME",
    kernel_dilation: Size = 1,
) -> Num[Array, "n h2 w2 o"]:
    """Cross-correlate every channel with kernels of its own.

    Output feature `c * M + m` of `C * M` comes from channel c alone: `conv2d` with `feature_group_count=C`, whose
    arguments these are.

    Example:
      >>> depthwise_conv2d(jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 1, 6))).shape
      (1, 5, 5, 6)
    """
    channels, shape = images("depthwise_conv2d", x).shape[3], kernel_array("depthwise_conv2d", kernel).shape
    if shape[2] != 1 or shape[3] % max(channels, 1):
        raise ValueError(
            f"depthwise_conv2d: expected a kernel [H, W, 1, M * {channels}] for x of {channels} channels, got {shape}. "
            f"Make its third axis 1 and its fourth a multiple of {channels}."
        )
    return _conv2d("depthwise_conv2d", x, kernel, bias, strides, padding, kernel_dilation, channels)
