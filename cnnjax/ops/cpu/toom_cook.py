"""The matrices of Winograd's minimal filtering, F(m, 3), built by Toom and Cook's interpolation."""

import functools
from dataclasses import dataclass

import numpy as np

TAPS = 3
# The sizes of float32 errors follow from the points: these halve those of the usual 0, 1, -1, 2, -2.
_POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.75, -0.75, 1.5, -1.5)}
TILES = tuple(_POINTS)


@dataclass(frozen=True)
class Filtering:
    """Make m outputs of 3 taps with m + 2 products: `y = output @ ((kernel @ taps) * (image @ pixels))`.

    Args:
      output: `[m, m + 2]`.
      kernel: `[m + 2, 3]`.
      image: `[m + 2, m + 2]`.
    References:
      Lavin and Gray, 2015, https://arxiv.org/abs/1509.09308; Barabasz et al., 2018, https://arxiv.org/abs/1803.10986,
      on points.
    """

    output: np.ndarray
    kernel: np.ndarray
    image: np.ndarray


@functools.cache
def filtering(m: int) -> Filtering:
    """Return the matrices for tiles of m outputs, float32.

    Example:
      >>> filtering(2).output
      array([[ 1.,  1.,  1.,  0.],
             [ 0.,  1., -1.,  1.]], dtype=float32)
    """
    points = np.array(_POINTS[m])
    # Values at the points, and the highest coefficient, which is the value at infinity.
    output = np.vander(points, m, increasing=True).T
    output = np.hstack([output, np.eye(m)[:, -1:]])
    others = [np.delete(points, i) for i in range(len(points))]
    weights = np.array([np.prod(point - rest) for point, rest in zip(points, others)])
    kernel = np.vander(points, TAPS, increasing=True) / weights[:, None]
    kernel = np.vstack([kernel, np.eye(TAPS)[-1]])
    image = np.zeros((len(points) + 1, len(points) + 1))
    for row, rest in zip(image, others):
        row[:-1] = np.poly(rest)[::-1]
    image[-1] = np.poly(points)[::-1]
    return Filtering(*(matrix.astype(np.float32) for matrix in (output, kernel, image)))
