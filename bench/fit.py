"""Measure LeNet-5's `fit` beside Keras 3's on every backend that is installed: `python bench/fit.py`.

MNIST at 28x28, the same 61,706 parameters, SGD 0.01, shuffled, with validation on 5,000 images. Each peer is a
process of its own (bench/peers) that runs one ordinary `fit`; a callback holds it between epochs, so that the peers
take turns, epoch by epoch, and never run at once. The first epoch of each, which compiles, is not counted. Keras may
live in another environment, given by `--keras-python`; it gets the images through a temporary .npz file. A peer that
is not installed is named and left out.

Columns: training images a second (best and median epoch, validation not counted), by how much the upper quartile of
the epochs' times exceeds the least, seconds of the median epoch with its validation, validation accuracy after the
last epoch (a check that all train alike), and how many times as fast as the peer cnnjax trains, by the best and by
the median epochs. Above 1 cnnjax is faster. A calibrating matrix product runs between the turns; a turn counts only
when the product before and the one after it were within 15 % of its median, and where fewer than three turns count, no
ratio is given: the machine was busy with something else. Validation runs at each library's own
batch size: the training's for Keras, up to 500 for cnnjax, as `cnnjax train` does.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file or as a module

from bench.race import Peer, race, start, stop_all
from bench.timing import Calibration, ratio
from cnnjax.data import load_dataset

BACKENDS = ("jax", "torch", "tensorflow")


def start_all(keras_python: str, backends: list[str], folder: Path, batch_size: int, epochs: int) -> list[Peer]:
    arguments = [str(folder / "mnist.npz"), str(batch_size), str(epochs)]
    peers = [start("cnnjax", sys.executable, "cnnjax_fit.py", arguments)]
    for backend in backends:
        # An empty KERAS_HOME: Keras's defaults, not what this machine's user has configured.
        settings = {"KERAS_BACKEND": backend, "KERAS_HOME": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3"}
        peers.append(start(f"keras {backend}", keras_python, "keras_fit.py", arguments, **settings))
    return peers


def report(peers: list[Peer], calibration: Calibration, batch_size: int, rounds: int) -> None:
    ours = peers[0]
    print(f"\nbatch {batch_size}: {rounds} epochs each, in turns, after one to warm up")
    print(f"{'images/s:':17s}{'best':>8s} {'median':>8s} {'spread':>7s} {'epoch s':>8s} {'val acc':>8s}", end="")
    print(f"  {'ours/theirs, best':>17s} {'median':>7s}")
    for peer in peers:
        if peer.failure:
            print(f"{peer.name:17s}{peer.failure}")
            continue
        timing = peer.timing(calibration, "train_seconds", "images")
        line = f"{peer.name:17s}{1 / timing.minimum:8,.0f} {1 / timing.median:8,.0f} {timing.spread:7.0%} "
        line += f"{peer.timing(calibration, 'epoch_seconds').median:8.2f} {peer.turns[-1]['val_accuracy']:8.2%} "
        if peer is not ours and not ours.failure:
            mine = ours.timing(calibration, "train_seconds", "images")
            by_median = f"{timing.median / mine.median:.2f}" if timing.quiet and mine.quiet else "-"
            line += f"{ratio(timing, mine):>18s} {by_median:>7s}"
        print(line)
    print(calibration)
    print("; ".join(f"{p.hello['version']}, {p.hello['params']:,} parameters" for p in peers if "version" in p.hello))


def write_data(path: Path, data_dir: Path | None, limit: int | None) -> None:
    """Write MNIST as arrays that any environment with NumPy reads."""
    dataset = load_dataset("mnist", data_dir=data_dir)
    arrays = {"mean": np.array(dataset.info.mean), "std": np.array(dataset.info.std)}
    for split in (dataset.train, dataset.validation):
        arrays |= {f"{split.name}_images": split.images[:limit], f"{split.name}_labels": split.labels[:limit]}
    np.savez(path, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 256], metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="measured epochs of each peer (default 5)")
    parser.add_argument("--backends", nargs="*", default=list(BACKENDS), choices=BACKENDS, metavar="NAME")
    parser.add_argument("--keras-python", default=sys.executable, metavar="PATH", help="interpreter that has Keras")
    parser.add_argument("--examples", type=int, metavar="N", help="images of each split at most (default: all)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where MNIST is prepared (default: TFDS's own)")
    parser.add_argument("--smoke", action="store_true", help="try the command out: 2 rounds of 2,048 images")
    args = parser.parse_args()
    if shutil.which(args.keras_python) is None:
        parser.error(f"--keras-python: no interpreter at {args.keras_python}")
    if args.smoke:
        args.rounds, args.examples = 2, 2048
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder / "mnist.npz", args.data_dir, args.examples)
        for batch_size in args.batch_sizes:
            peers = start_all(args.keras_python, args.backends, folder, batch_size, args.rounds + 1)
            try:
                calibration = race(peers, least=args.rounds)
                report(peers, calibration, batch_size, args.rounds)
            finally:
                stop_all(peers)


if __name__ == "__main__":
    main()
