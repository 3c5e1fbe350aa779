"""Reproduce Luo et al. (2016): effective fields are Gaussian and grow with the square root of depth.

Stacks of linear 3x3 convolutions with random weights; the theoretical field is 2 n + 1 pixels wide, the effective one
about 4 sqrt(4 n / 3), an ever smaller share.

Command:   python examples/receptive_field_luo.py --out luo.png
Expected:  R² above 0.99 and sigma / sqrt(n) between 1.10 and 1.21 at every depth. About 1 min on two idle CPU cores.
"""

import argparse
import pathlib

import jax
import numpy as np
from flax import linen as nn

from cnnjax import receptive_field as rf

FEATURES = 16  # channels of every layer and of the input: more of them, less noise
SAMPLES = 100  # draws of all weights that are averaged
DEPTHS = (5, 10, 20, 40)  # layers


class LinearStack(nn.Module):
    """Convolve `depth` times and do nothing else."""

    depth: int

    @nn.compact
    def __call__(self, x):
        for _ in range(self.depth):
            x = nn.Conv(FEATURES, (3, 3), use_bias=False)(x)
        return x


def measure(depth: int, samples: int, seed: int) -> tuple[np.ndarray, rf.GaussianFit]:
    """Return the middle unit's map, over just what it can read, and the Gaussian fitted to it."""
    size = 2 * depth + 1
    heat = rf.measure(LinearStack(depth), (size, size, FEATURES), samples=samples, key=jax.random.key(seed))
    return heat, rf.fit_gaussian(heat)


def draw(found: dict[int, tuple[np.ndarray, rf.GaussianFit]], path: pathlib.Path) -> None:
    """Draw sections through the maps with their Gaussians, and sigma against depth."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    sections, growth = figure.subplots(1, 2)
    # Colours of Okabe and Ito, which the colour-blind tell apart; the marker says it again.
    for (depth, (heat, fit)), colour, marker in zip(
        found.items(), ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), "os^v"
    ):
        rows, columns = np.arange(len(heat)), np.arange(heat.shape[1])
        curve, profile = fit(rows[:, None], columns[None]).sum(1), heat.sum(1)
        places = rows - depth
        sections.plot(
            places, profile / curve.max(), marker, color=colour, ms=4, label=f"{depth} layers, R² {fit.r_squared:.4f}"
        )
        sections.plot(places, curve / curve.max(), "-", color=colour, lw=1.5)
    sections.set(xlabel="row, from the unit's own (pixels)", ylabel="|gradient| (share of the peak)", ylim=(0, 1.15))
    sections.set_title("measured (marks) and fitted Gaussians (lines)", fontsize=10)
    sections.legend(fontsize=8)
    depths = np.array(list(found))
    fine = np.linspace(1, depths.max() * 1.05, 100)
    growth.plot(
        depths, [4 * fit.sigma[0] for _, fit in found.values()], "o", color="#0072B2", label="measured, 4 sigma"
    )
    growth.plot(fine, 4 * np.sqrt(4 * fine / 3), "--", color="#009E73", label="predicted, 4 sqrt(4 n / 3)")
    growth.plot(fine, 2 * fine + 1, ":", color="#D55E00", lw=2, label="theoretical field, 2 n + 1")
    growth.set(xlabel="layers n", ylabel="width (pixels)", xlim=0, ylim=0)
    growth.set_title("width of the field", fontsize=10)
    growth.legend(fontsize=8)
    for axes in (sections, growth):
        axes.grid(alpha=0.3)
    canvas.print_png(str(path))


def main(depths: tuple[int, ...], samples: int, seed: int, path: pathlib.Path | None) -> None:
    """Measure every depth and say what was found."""
    found = {}
    for depth in depths:
        heat, fit = found[depth] = measure(depth, samples, seed)
        sigma = float(np.mean(fit.sigma))
        share = rf.effective_size(heat)[0] / (2 * depth + 1)
        print(
            f"{depth} layers: sigma {sigma:.3f} pixels, sigma / sqrt(n) {sigma / np.sqrt(depth):.4f}, "
            f"R² {fit.r_squared:.4f}, 95.45 % of |gradient| in {share:.0%} of the theoretical width",
            flush=True,
        )
    if path is not None:
        draw(found, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="PNG to draw (needs matplotlib)")
    parser.add_argument("--smoke", action="store_true", help="two shallow stacks, to see that it runs")
    args = parser.parse_args()
    main(DEPTHS[:2] if args.smoke else DEPTHS, 2 if args.smoke else args.samples, args.seed, args.out)
