"""Time inference of cnnjax beside plain Flax at batch 1 and 32: `python bench/inference.py`.

One jitted forward pass, float32, the nets of bench/train_step.py; plain Flax is the same net, parameter for parameter,
with Flax's own convolution, pools and batch norm. Each peer is a process of its own that runs forward for a fifth of a
second when it is its turn; they never run at once.

Columns: milliseconds of a pass (minimum, median) of each, and how many times as fast cnnjax is by the minima and by the
medians. A calibrating matrix product runs between the turns; a turn counts only when the product before and the one
after it were within 15 % of its median, and where fewer than three turns count, no ratio is given.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file or as a module

from bench.race import race, same_nets, start, stop_all
from bench.timing import ratio
from bench.train_step import NETS

# The names of bench/train_step.py's nets without their batches; each once.
SIDES = {net: side for net, _, side in NETS.values()}


def measure(net: str, batch_size: int, budget: float) -> str:
    """Return the line of one net at one batch size."""
    arguments = [net, str(batch_size), str(SIDES[net])]
    peers = [
        start("cnnjax", sys.executable, "jax_infer.py", ["cnnjax", *arguments], CNNJAX_CPU_OPS="on"),
        start("flax", sys.executable, "jax_infer.py", ["flax", *arguments], CNNJAX_CPU_OPS="off"),
    ]
    try:
        same_nets(peers)
        calibration = race(peers, least=5, budget=budget)
        failures = [f"{peer.name} {peer.failure}" for peer in peers if peer.failure]
        if failures:
            return "; ".join(failures)
        ours, theirs = (peer.timing(calibration, "seconds") for peer in peers)
        medians = f"{theirs.median / ours.median:.2f}" if ours.quiet and theirs.quiet else "-"
        cells = [f"{seconds * 1e3:9.2f}" for timing in (ours, theirs) for seconds in (timing.minimum, timing.median)]
        return " ".join([*cells, f"{ratio(theirs, ours):>7s} {medians:>7s}  {calibration}"])
    finally:
        stop_all(peers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=list(SIDES), choices=SIDES, metavar="NET", help=", ".join(SIDES))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32], metavar="N")
    parser.add_argument("--budget", type=float, default=3.0, metavar="S", help="seconds for each peer (default 3)")
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores")
    print(f"{'':28s} {'cnnjax':>9s} {'median':>9s} {'flax':>9s} {'median':>9s} {'flax/ours':>7s} {'median':>7s}")
    for net in args.nets:
        for batch_size in args.batch_sizes:
            print(f"{net:22s} b{batch_size:<4d}", measure(net, batch_size, args.budget), flush=True)


if __name__ == "__main__":
    main()
