"""Which algorithm the CPU uses: one table from role and shape, justified by `bench/ops.py`."""

from collections.abc import Callable
from functools import partial

from cnnjax.ops.cpu import banded, depthwise, direct, grouped, matmul, shared_taps, winograd
from cnnjax.ops.cpu.spec import ConvSpec

_BANDED = {"forward": banded.forward, "input_grad": banded.input_grad, "kernel_grad": banded.kernel_grad}
_DIRECT = {"forward": direct.forward, "input_grad": direct.input_grad, "kernel_grad": direct.kernel_grad}
_DEPTHWISE = {
    "forward": depthwise.forward,
    "input_grad": depthwise.input_grad,
    "kernel_grad": depthwise.kernel_grad,
}
_MATMUL = {"forward": matmul.forward, "input_grad": matmul.input_grad, "kernel_grad": matmul.kernel_grad}
_WINOGRAD = {"forward": winograd.forward, "input_grad": winograd.input_grad, "kernel_grad": winograd.kernel_grad}

_IMAGE_BYTES = 16 << 20  # coefficients that no cache holds cost what is saved


def _banded_fits(role: str, spec: ConvSpec) -> bool:
    # Measured: beyond these sizes, or for a few images, XLA is as fast. Kernel gradients gain with one channel, and for
    # large kernels where the convolution has laid their rows; else they are 1.3 to 2.6 times slower.
    (kh, kw, channels, features), columns = spec.kernel_shape, spec.output_sizes[1]
    few_zeros = kw > 1 and banded.narrowest_block(spec) <= 2 * kw and spec.dilation[1] == 1
    narrow = channels <= 6 and features <= 32 and kh * kw <= 25
    if spec.exact or (role == "forward" and channels == 1 and features > 8):
        return False
    if role == "kernel_grad" and (spec.strides != (1, 1) or features > 16 or (channels > 1 and kh * kw < 25)):
        return False
    return few_zeros and narrow and spec.input_shape[0] >= 8 and columns <= 64


def _winograd_fits(role: str, spec: ConvSpec) -> bool:
    # Measured on two whole cores: with fewer channels XLA's own is as fast or faster, where all cores take part in it,
    # which kernel gradients of a few images hardly let them.
    plain = spec.kernel_shape[:2] == (3, 3) and spec.strides == spec.dilation == (1, 1)
    few = role == "kernel_grad" and spec.input_shape[0] <= 4
    wide = min(spec.kernel_shape[2:]) >= (64 if few else 128 if role == "kernel_grad" else 192)
    if spec.exact or not plain or not wide or winograd.image_bytes(spec) > _IMAGE_BYTES:
        return False
    return few or winograd.saving(spec) > 1.4


def _shared_taps_fit(role: str, spec: ConvSpec) -> bool:
    # Measured: 1.3 times as fast as XLA's own with 16 channels, and slower with more or with 3.
    (kh, kw, channels, features), one = spec.kernel_shape, spec.strides == (1, 1)
    narrow = min(kh, kw) > 1 and 6 <= channels <= 16 and features <= 16
    return role == "kernel_grad" and one and narrow and not spec.exact


def _choose_for_groups(role: str, spec: ConvSpec) -> Callable | None:
    kh, kw, channels, _ = spec.kernel_shape
    if channels == 1:
        return _DEPTHWISE[role] if kh * kw <= depthwise.MOST_TAPS else None
    algorithm = None if spec.exact else choose(role, grouped.plain(spec))
    return algorithm and partial(grouped.in_parts, role, algorithm)


def _multiplies_padding(role: str, spec: ConvSpec) -> bool:
    # Zero times what is not finite is NaN. A kernel's gradient meets the padding, and so does a kernel larger than what
    # it runs over, since that is padded beforehand.
    if role == "kernel_grad":
        return any(map(any, spec.padding))
    if spec.groups > 1:  # images and gradients are padded beforehand, and gradients put apart
        padding = spec.padding if role == "forward" else spec.input_grad_padding
        return any(map(any, padding)) or (role == "input_grad" and spec.strides != (1, 1))
    over = spec.input_shape[1:3] if role == "forward" else spec.output_sizes
    return any((k - 1) * d >= n for n, k, d in zip(over, spec.kernel_shape[:2], spec.dilation))


def choose(role: str, spec: ConvSpec) -> Callable | None:
    """Return the algorithm for a role of a convolution, or None for the platform's own."""
    if not spec.input_shape[0] or (spec.exact and _multiplies_padding(role, spec)):
        return None
    if spec.groups > 1:
        return _choose_for_groups(role, spec)
    if spec.kernel_shape[:2] == (1, 1) and spec.kernel_shape[2] >= 8:
        return _MATMUL[role]
    if _banded_fits(role, spec):
        return _BANDED[role]
    if _shared_taps_fit(role, spec):
        return shared_taps.kernel_grad
    if _winograd_fits(role, spec):
        return _WINOGRAD[role]
    return _DIRECT[role]
