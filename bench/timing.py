"""Time functions side by side, honestly: alternating runs, minimum, median and spread, and a calibrating matmul."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

NOISY = 0.15  # a ratio means nothing when the calibrating matmul varies by more than this share


@dataclass(frozen=True)
class Timing:
    """Hold the seconds that one function took, run by run."""

    seconds: tuple[float, ...]

    @property
    def minimum(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Share by which the upper quartile exceeds the minimum."""
        ordered = sorted(self.seconds)
        return ordered[(3 * (len(ordered) - 1)) // 4] / ordered[0] - 1

    def __str__(self) -> str:
        return f"{self.minimum * 1e3:9.3f} {self.median * 1e3:9.3f} {self.spread * 100:5.0f}%"


@dataclass
class Calibration:
    """Watch how fast the machine multiplies matrices while other things are timed."""

    size: int = 1024
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._matrix = jnp.ones((self.size, self.size)) / self.size
        self._product = jax.jit(jnp.matmul)
        run_once(self._product, self._matrix, self._matrix)

    def sample(self) -> None:
        self.seconds.append(run_once(self._product, self._matrix, self._matrix))

    @property
    def gflops(self) -> float:
        return 2 * self.size**3 / min(self.seconds) / 1e9

    @property
    def variation(self) -> float:
        """Share by which the upper quartile of the matmul exceeds its minimum."""
        return Timing(tuple(self.seconds)).spread

    @property
    def quiet(self) -> bool:
        return self.variation <= NOISY

    def ratio(self, slower: Timing, faster: Timing) -> str:
        """Return how many times faster the second is, or why no number can be given."""
        return f"{slower.minimum / faster.minimum:.2f}" if self.quiet else f"noisy ({self.variation * 100:.0f}%)"


def run_once(f: Callable, *arguments) -> float:
    """Return the seconds of one call, its result awaited."""
    start = time.perf_counter()
    jax.block_until_ready(f(*arguments))
    return time.perf_counter() - start


def alternate(
    candidates: Mapping[str, Callable[[], object]], *, budget: float = 1.0, least: int = 5
) -> tuple[dict[str, Timing], Calibration]:
    """Time candidates in turn, so that what slows the machine slows them all.

    Args:
      candidates: Functions without arguments, by name; each is called once first, to compile.
      budget: Seconds to spend on each, about.
      least: Runs of each at the least.
    Returns:
      Timings by name, and the calibration sampled among them.
    """
    calibration = Calibration()
    longest = 0.0
    for f in candidates.values():
        run_once(f)
        longest = max(longest, run_once(f))
    rounds = max(least, int(budget / max(longest, 1e-6)))
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for round_number in range(min(rounds, 2000)):
        if round_number % max(rounds // 20, 1) == 0:
            calibration.sample()
        for name, f in candidates.items():
            seconds[name].append(run_once(f))
    return {name: Timing(tuple(values)) for name, values in seconds.items()}, calibration
