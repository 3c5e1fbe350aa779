"""Which algorithm the CPU uses: one table from role and shape, justified by `bench/ops.py`."""

from collections.abc import Callable

from cnnjax.ops.cpu import banded, im2col, matmul, shared_taps, winograd
from cnnjax.ops.cpu.problem import Problem

_BANDED = {"out": banded.out, "lhs": banded.lhs, "rhs": banded.rhs}
_MATMUL = {"out": matmul.out, "lhs": matmul.lhs, "rhs": matmul.rhs}
_WINOGRAD = {"out": winograd.out, "lhs": winograd.lhs, "rhs": winograd.rhs}

_IMAGE_BYTES = 16 << 20  # coefficients that no cache holds cost what is saved


def _banded_fits(problem: Problem) -> bool:
    # Measured: beyond these sizes, or for a few images, XLA's own is as fast.
    (kh, kw, channels, features), columns = problem.rhs_shape, problem.out_sizes[1]
    few_zeros = kw > 1 and banded.block_size(problem) <= 2 * kw and problem.dilation[1] == 1
    narrow = channels <= 6 and features <= 32 and kh * kw <= 25
    return not problem.exact and few_zeros and narrow and problem.lhs_shape[0] >= 8 and columns <= 64


def _winograd_fits(role: str, problem: Problem) -> bool:
    plain = problem.rhs_shape[:2] == (3, 3) and problem.strides == problem.dilation == (1, 1)
    width = min(problem.rhs_shape[2:])
    if problem.exact or not plain or width < 16:
        return False
    if role != "rhs":
        # On maps of 2x2 XLA falls back to a loop, 40 times slower; its kernel gradient is another convolution.
        if problem.lhs_shape[1:3] == problem.out_sizes == (2, 2) and problem.lhs_shape[0] >= 8:
            return width >= 32
        if width <= 32:  # measured: XLA's own is as fast or faster
            return False
    return winograd.saving(problem) > 1.4 and winograd.image_bytes(problem) <= _IMAGE_BYTES


def _shared_taps_fit(role: str, problem: Problem) -> bool:
    # Measured: 1.3 to 1.8 times as fast as Winograd with 16 or 32 channels, 1.1 to 1.4 times as banded products with 3
    # or 6; with 1, or with more features, slower.
    (kh, kw, channels, features), one = problem.rhs_shape, problem.strides == (1, 1)
    narrow = min(kh, kw) > 1 and 3 <= channels <= 32 and features <= 32
    return role == "rhs" and one and narrow and not problem.exact


def _im2col_fits(role: str, problem: Problem) -> bool:
    # Measured: 1.3 to 2.2 times as fast as XLA's own alone, and more in a whole step, where XLA transposes images in
    # fusions of their own. Where the padding meets a gradient that is not finite, zero times it is NaN.
    return role == "rhs" and not (problem.exact and any(map(any, problem.padding)))


def choose(role: str, problem: Problem) -> Callable | None:
    """Return the algorithm for a role (`out`, `lhs`, `rhs`) of a convolution, or None for the platform's own."""
    if problem.rhs_shape[:2] == (1, 1) and problem.rhs_shape[2] >= 8:
        return _MATMUL[role]
    if _shared_taps_fit(role, problem):
        return shared_taps.rhs
    if _banded_fits(problem) and not (role == "out" and problem.rhs_shape[2] == 1 and problem.rhs_shape[3] > 8):
        return _BANDED[role]
    if _winograd_fits(role, problem):
        return _WINOGRAD[role]
    return im2col.rhs if _im2col_fits(role, problem) else None
