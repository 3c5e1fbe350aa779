"""Chance on the host: numbers and samples that depend on what they are named after, and on nothing else."""

from collections.abc import Sequence

import numpy as np


def uniform_draws(seed: Sequence[int], count: int) -> list[float]:
    """Return uniform numbers in [0, 1) that depend on the seed alone, whatever NumPy's version.

    Example:
      >>> uniform_draws([0, 1], 2)
      [0.6073659924129827, 0.5037305356300301]
    """
    bits = np.random.Philox(np.random.SeedSequence(list(seed))).random_raw(count)
    return ((bits >> np.uint64(11)) * 2.0**-53).tolist()


def fixed_sample(num_examples: int, count: int) -> np.ndarray:
    """Return which of a set's places are put aside: the first `count` of one fixed permutation, in ascending order.

    A larger sample contains a smaller one, and classes come as they may, however the set's files are sorted.

    Example:
      >>> fixed_sample(10, 4).tolist()
      [0, 2, 5, 8]
    """
    keys = np.random.Philox(np.random.SeedSequence([num_examples])).random_raw(num_examples)
    return np.sort(np.argsort(keys, kind="stable")[:count])
