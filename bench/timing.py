"""Time functions side by side, honestly: alternating runs, minimum, median and spread, and a calibrating matmul."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

NOISY = 0.15  # how far off its median the calibrating matmul may be on both sides of a measurement that counts
LEAST = 3  # so many measurements have to count, or no ratio is given


@dataclass(frozen=True)
class Timing:
    """Hold the seconds that one function took, run by run: of the runs that count, or of all when too few do."""

    seconds: tuple[float, ...]
    quiet: bool = True

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


def ratio(slower: Timing, faster: Timing) -> str:
    """Return how many times faster the second is by the minima, or `noisy`: too few of their runs count."""
    return f"{slower.minimum / faster.minimum:.2f}" if slower.quiet and faster.quiet else "noisy"


@dataclass
class Calibration:
    """Watch how fast the machine multiplies matrices between the measurements: a sample before each, one at the end."""

    size: int = 1024
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._matrix = jnp.ones((self.size, self.size)) / self.size
        self._product = jax.jit(jnp.matmul)
        run_once(self._product, self._matrix, self._matrix)

    def sample(self) -> int:
        """Measure the matmul, the best of five since a pause makes the first a cold one, and return its number."""
        self.seconds.append(min(run_once(self._product, self._matrix, self._matrix) for _ in range(5)))
        return len(self.seconds) - 1

    def _usual(self, seconds: float) -> bool:
        # Not off the best: a shared machine's best lasts for a blink, and clocks alone vary by a few per cent.
        return abs(seconds / statistics.median(self.seconds) - 1) <= NOISY

    def quiet(self, number: int) -> bool:
        """Say whether the machine was as it mostly is from one sample to the next."""
        return all(map(self._usual, self.seconds[number : number + 2]))

    @property
    def share(self) -> float:
        """Share of the samples that are as usual."""
        return statistics.mean(map(self._usual, self.seconds))

    def timing(self, runs: Iterable[tuple[int, float]]) -> Timing:
        """Return the timing of runs given as the number of the sample before them, and seconds.

        None counts where half of the samples are unusual: then nothing is usual.
        """
        runs = list(runs)
        counting = tuple(seconds for number, seconds in runs if self.quiet(number))
        quiet = len(counting) >= LEAST and self.share > 0.5
        return Timing(counting if quiet else tuple(seconds for _, seconds in runs), quiet)

    def __str__(self) -> str:
        rate = 2 * self.size**3 / statistics.median(self.seconds) / 1e9
        return f"matmul {rate:.0f} GFLOP/s, steady in {self.share:.0%} of the samples"


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
    rounds = min(max(least, int(budget / max(longest, 1e-6))), 2000)
    runs: dict[str, list[tuple[int, float]]] = {name: [] for name in candidates}
    number = 0
    for round_number in range(rounds):
        if round_number % max(rounds // 20, 1) == 0:
            number = calibration.sample()
        for name, f in candidates.items():
            runs[name].append((number, run_once(f)))
    calibration.sample()
    return {name: calibration.timing(values) for name, values in runs.items()}, calibration
