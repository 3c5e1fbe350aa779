"""Convolution, pooling and normalisation as pure functions on arrays: images `[N, H, W, C]`, kernels `[H, W, I, O]`."""

from cnnjax.ops.conv import conv2d, conv_general_dilated, convolve2d, depthwise_conv2d
from cnnjax.ops.conv_transpose import conv_transpose2d
from cnnjax.ops.norm import local_response_norm
from cnnjax.ops.pool import adaptive_avg_pool, adaptive_max_pool, avg_pool, global_avg_pool, max_pool

__all__ = [
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "avg_pool",
    "conv2d",
    "conv_general_dilated",
    "conv_transpose2d",
    "convolve2d",
    "depthwise_conv2d",
    "global_avg_pool",
    "local_response_norm",
    "max_pool",
]


def __dir__() -> list[str]:
    return __all__
