"""Time whole training steps of cnnjax, plain Flax and PyTorch: `python bench/train_step.py`.

Forward, backward and SGD with momentum, float32. Plain Flax is the same net, parameter for parameter, with Flax's own
convolution, pools and batch norm; PyTorch's nets have the same number of parameters and run channels-last, eager and
compiled. Each peer is a process of its own (bench/peers) that takes steps for a fifth of a second, one at the least,
when it is its turn; they never run at once. A peer that is not installed, or that cannot compile here, is named and
left out.

Columns: milliseconds of a step (minimum, median), by how much the upper quartile exceeds the minimum, seconds of the
first step, which compiles, the process's peak memory, and how many times as fast as the peer cnnjax is by the minima;
above 1 cnnjax is faster. A calibrating matrix product runs between the turns; a turn counts only when the product
before and the one after it were within 15 % of its median, and where fewer than three turns count, no ratio is given:
the machine was busy with something else. At the end the geometric means over the nets: against plain Flax, and
against PyTorch's better mode.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file or as a module

from bench.race import Peer, race, same_nets, start, stop_all
from bench.timing import Calibration, ratio
from cnnjax.cli import pages

# net, batch, side of the images
NETS = {
    "lenet5-b32": ("lenet5", 32, 28),
    "lenet5-b256": ("lenet5", 256, 28),
    "resnet20-b128": ("resnet20", 128, 32),
    "resnet18-b32": ("resnet18_cifar", 32, 32),
    "vgg16-b32": ("vgg16_cifar", 32, 32),
    "googlenet-b8": ("googlenet_torchvision", 8, 224),
    "resnet50-b8": ("resnet50", 8, 224),
}
PEERS = {
    "cnnjax": ("jax_train.py", "cnnjax"),
    "flax": ("jax_train.py", "flax"),
    "torch": ("torch_train.py", "eager"),
    "torch compiled": ("torch_train.py", "compile"),
}


def report(peers: list[Peer], calibration: Calibration) -> dict[str, float]:
    """Print a line a peer and return how many times as fast as each cnnjax is."""
    ratios = {}
    ours = next((peer for peer in peers if peer.name == "cnnjax" and not peer.failure), None)
    for peer in peers:
        if peer.failure:
            print(f"  {peer.name:15s} {peer.failure}")
            continue
        timing = peer.timing(calibration, "seconds")
        line = f"  {peer.name:15s} {timing.minimum * 1e3:9.1f} {timing.median * 1e3:9.1f} {timing.spread:6.0%} "
        line += f"{peer.hello['compile_seconds']:8.1f} {peer.turns[-1]['peak_mb']:8.0f} "
        if ours is not None and peer is not ours:
            mine = ours.timing(calibration, "seconds")
            line += f"{ratio(timing, mine):>14s}"
            if timing.quiet and mine.quiet:
                ratios[peer.name] = timing.minimum / mine.minimum
        print(line + f"   {peer.hello['params']:,}", flush=True)
    print(f"  {calibration}")
    return ratios


def geometric_means(rows: list[dict[str, float]]) -> str:
    """Return the means against Flax and against the better of PyTorch's modes, over the nets that have a ratio."""
    against_torch = [min(value for name, value in row.items() if "torch" in name) for row in rows if "torch" in row]
    against = {"plain Flax": [row["flax"] for row in rows if "flax" in row], "PyTorch's better mode": against_torch}
    means = [
        f"{statistics.geometric_mean(values):.2f} x {name} ({len(values)} nets)"
        for name, values in against.items()
        if values
    ]
    return "geometric mean: " + ("; ".join(means) or "none, the machine was too busy")


def start_net(name: str, names: list[str], cache: Path | None = None) -> list[Peer]:
    arguments = [str(value) for value in NETS[name]]
    environment = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    peers = []
    for peer in names:
        script, kind = PEERS[peer]
        more = {"CNNJAX_CPU_OPS": "off" if kind == "flax" else "on", **(environment if cache else {})}
        peers.append(start(peer, sys.executable, script, [kind, *arguments], **more))
    return peers


def cached(names: list[str]) -> None:
    """Print how long the first step takes without and with a persistent compile cache, cnnjax against plain Flax."""
    print(f"{'first step, s':17s}{'cnnjax':>9s} {'flax':>9s} {'ratio':>7s}")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            for label in ("cold", "cached"):
                peers = start_net(name, ["cnnjax", "flax"], Path(folder))
                stop_all(peers)
                same_nets(peers)
                if failures := [f"{peer.name} {peer.failure}" for peer in peers if peer.failure]:
                    print(name, label, *failures, flush=True)
                    continue
                ours, theirs = (peer.hello["compile_seconds"] for peer in peers)
                print(f"{name} {label:6s} {ours:9.1f} {theirs:9.1f} {ours / theirs:7.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=NETS, metavar="NET", help=", ".join(NETS))
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS, metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("--budget", type=float, default=20.0, metavar="S", help="seconds for each peer of each net")
    parser.add_argument("--least", type=int, default=5, metavar="N", help="measured steps of each at the least")
    parser.add_argument("--huge-pages", action="store_true", help="let every peer's malloc use 2 MB pages (glibc)")
    parser.add_argument("--cached", action="store_true", help="time the first step, without and with a compile cache")
    args = parser.parse_args()
    if args.huge_pages:
        os.environ[pages.VARIABLE] = pages.SETTING
    if args.cached:
        cached(args.nets)
        return
    print(f"{os.cpu_count()} cores")
    print(f"{'':17s} {'min ms':>9s} {'median':>9s} {'spread':>6s} {'first s':>8s} {'peak MB':>8s} {'theirs/ours':>14s}")
    rows, versions = [], {}
    for name in args.nets:
        print(name)
        peers = start_net(name, args.peers)
        try:
            same_nets(peers)
            rows.append(report(peers, race(peers, least=args.least, budget=args.budget)))
        finally:
            stop_all(peers)
        versions |= {peer.hello["version"]: None for peer in peers if "version" in peer.hello}
    print(geometric_means(rows))
    print("; ".join(versions))


if __name__ == "__main__":
    main()
