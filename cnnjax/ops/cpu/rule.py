"""Which algorithm the CPU uses: one table from role and shape, justified by `bench/ops.py`."""

from collections.abc import Callable

from cnnjax.ops.cpu import banded, direct, matmul, shared_taps, winograd
from cnnjax.ops.cpu.problem import ConvSpec

_BANDED = {"out": banded.out, "lhs": banded.lhs, "rhs": banded.rhs}
_DIRECT = {"out": direct.out, "lhs": direct.lhs, "rhs": direct.rhs}
_MATMUL = {"out": matmul.out, "lhs": matmul.lhs, "rhs": matmul.rhs}
_WINOGRAD = {"out": winograd.out, "lhs": winograd.lhs, "rhs": winograd.rhs}

_IMAGE_BYTES = 16 << 20  # coefficients that no cache holds cost what is saved


def _banded_fits(role: str, problem: ConvSpec) -> bool:
    # Measured: beyond these sizes, or for a few images, XLA is as fast. Kernel gradients gain with one channel, and for
    # large kernels where the convolution has laid their rows; else they are 1.3 to 2.6 times slower.
    (kh, kw, channels, features), columns = problem.rhs_shape, problem.out_sizes[1]
    few_zeros = kw > 1 and banded.narrowest_block(problem) <= 2 * kw and problem.dilation[1] == 1
    narrow = channels <= 6 and features <= 32 and kh * kw <= 25
    if problem.exact or (role == "out" and channels == 1 and features > 8):
        return False
    if role == "rhs" and (problem.strides != (1, 1) or features > 16 or (channels > 1 and kh * kw < 25)):
        return False
    return few_zeros and narrow and problem.lhs_shape[0] >= 8 and columns <= 64


def _winograd_fits(role: str, problem: ConvSpec) -> bool:
    # Measured on two whole cores: with fewer channels XLA's own is as fast or faster, where all cores take part in it,
    # which kernel gradients of a few images hardly let them.
    plain = problem.rhs_shape[:2] == (3, 3) and problem.strides == problem.dilation == (1, 1)
    few = role == "rhs" and problem.lhs_shape[0] <= 4
    wide = min(problem.rhs_shape[2:]) >= (64 if few else 128 if role == "rhs" else 192)
    if problem.exact or not plain or not wide or winograd.image_bytes(problem) > _IMAGE_BYTES:
        return False
    return few or winograd.saving(problem) > 1.4


def _shared_taps_fit(role: str, problem: ConvSpec) -> bool:
    # Measured: 1.3 times as fast as XLA's own with 16 channels, and slower with more or with 3.
    (kh, kw, channels, features), one = problem.rhs_shape, problem.strides == (1, 1)
    narrow = min(kh, kw) > 1 and 6 <= channels <= 16 and features <= 16
    return role == "rhs" and one and narrow and not problem.exact


def _multiplies_padding(role: str, problem: ConvSpec) -> bool:
    # Zero times what is not finite is NaN. A kernel's gradient meets the padding, and so does a kernel larger than what
    # it runs over, since that is padded beforehand.
    if role == "rhs":
        return any(map(any, problem.padding))
    over = problem.lhs_shape[1:3] if role == "out" else problem.out_sizes
    return any((k - 1) * d >= n for n, k, d in zip(over, problem.rhs_shape[:2], problem.dilation))


def choose(role: str, problem: ConvSpec) -> Callable | None:
    """Return the algorithm for a role (`out`, `lhs`, `rhs`) of a convolution, or None for the platform's own."""
    if not problem.lhs_shape[0] or (problem.exact and _multiplies_padding(role, problem)):
        return None
    if problem.rhs_shape[:2] == (1, 1) and problem.rhs_shape[2] >= 8:
        return _MATMUL[role]
    if _banded_fits(role, problem):
        return _BANDED[role]
    if _shared_taps_fit(role, problem):
        return shared_taps.rhs
    if _winograd_fits(role, problem):
        return _WINOGRAD[role]
    return _DIRECT[role]
