"""XLA's own convolution for the gradient of images, put so that it is as fast in a loop as outside of one.

XLA turns a kernel round within its convolution, and puts that right for its fast routine only outside of loops: inside
of one, a micro-batch's or a scan's, such a convolution is 4 to 8 times slower.
"""

from jax import lax

from cnnjax.ops.cpu.problem import Problem
from cnnjax.ops.cpu.stages import stage


@stage
def _turned(kernel):
    """Turn a kernel `[KH, KW, C, O]` by half and exchange its channels: `[KH, KW, O, C]`."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def lhs(g, kernel, problem: Problem):
    """Return the gradient of the images: g, its pixels apart by the strides, convolved with the turned kernel."""
    edges = []
    for n, k, out, stride, dilation, (low, _) in zip(
        problem.lhs_shape[1:3],
        problem.rhs_shape[:2],
        problem.out_sizes,
        problem.strides,
        problem.dilation,
        problem.padding,
    ):
        reach = (k - 1) * dilation
        edges.append((reach - low, n + low - (out - 1) * stride - 1))
    return lax.conv_general_dilated(
        g,
        _turned(kernel),
        (1, 1),
        edges,
        lhs_dilation=problem.strides,
        rhs_dilation=problem.dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
