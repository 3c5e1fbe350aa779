"""Measure what the data and the loop add to a training epoch: LeNet-5 on MNIST, `python bench/pipeline.py`; for another
net, `python bench/pipeline.py --model resnet20 --dataset cifar10 --batch-sizes 128 --steps 8`.

Four things take turns in one process, after a warm-up of each; a round is one run of each, in an order that turns
round:

- steps alone: the jitted `train_step` over and over on one batch that lies on the device; the floor.
- epoch: the same number of steps through `cnnjax.training.fit` with `cnnjax.data.batches`: shuffling, gathering,
  normalising, metrics, and the progress line, drawn for a terminal that throws it away. No evaluation, no files.
- fit, one batch: `fit` with that one batch again and again: what the loop costs without the data.
- batches alone: a walk over `batches` that trains nothing. Some of it runs beside the steps, so it does not simply
  add up.

Columns: milliseconds a step (minimum, median), and by how much the upper quartile exceeds the minimum. The figure to
read is epoch / steps alone, of the medians; the target is at most 1.05. A calibrating matrix product runs between the
measurements; one counts only when the product before and the one after it were within 15 % of its median, and where
fewer than three count, no ratio is given: the machine was busy with something else. With `--steps` the
shuffling of the whole set (once an epoch) falls on few steps and weighs too much: that is for trying the command out.
"""

import argparse
import collections
import functools
import io
import itertools
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file or as a module

from bench.timing import Calibration, Timing, ratio
from cnnjax.batch import Batch
from cnnjax.data import Split, batches, epoch_range, load_dataset
from cnnjax.models import build
from cnnjax.training import Progress, TrainState, create_state, fit, make_optimizer, train_step

TARGET = 1.05
FLOOR, EPOCH, LOOP, DATA = "steps alone", "epoch", "fit, one batch", "batches alone"
# Runs one epoch, by number, of so many steps at most; returns seconds.
Candidate = Callable[[int, int], float]


class NullTerminal(io.TextIOBase):
    """A terminal nobody looks at: progress is drawn in full and thrown away."""

    def isatty(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return len(text)


def make_candidates(model: str, split: Split, batch_size: int) -> dict[str, Candidate]:
    """Return what is to be timed, by name; each starts from the same fresh state."""
    initial = create_state(build(model, num_classes=10), make_optimizer("sgd", 0.01), split.image_shape, key=key(0))
    fixed = next(iter(batches(split, batch_size, key=key(1), train=True)))

    def fresh() -> TrainState:
        return jax.block_until_ready(jax.tree.map(jnp.array, initial))

    def walk(seed: int, epoch: int, steps: int) -> Iterable[Batch]:
        return itertools.islice(batches(split, batch_size, key=key(seed), epoch=epoch, train=True), steps)

    def steps_alone(epoch: int, steps: int) -> float:
        state, metrics = fresh(), None
        start = time.perf_counter()
        for _ in range(steps):
            state, metrics = train_step(state, fixed)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - start

    def through_fit(data: Callable[[int, int], Iterable[Batch]], epoch: int, steps: int) -> float:
        state, shown = fresh(), Progress(NullTerminal(), epoch_steps=steps)
        start = time.perf_counter()
        state, _ = fit(state, lambda _: data(epoch, steps), epochs=1, callbacks=[shown], progress=False)
        jax.block_until_ready(state)
        return time.perf_counter() - start

    def batches_alone(epoch: int, steps: int) -> float:
        start = time.perf_counter()
        last = collections.deque(walk(3, epoch, steps), maxlen=1)
        jax.block_until_ready(last.pop())
        return time.perf_counter() - start

    return {
        FLOOR: steps_alone,
        EPOCH: functools.partial(through_fit, functools.partial(walk, 2)),
        LOOP: functools.partial(through_fit, lambda epoch, steps: itertools.repeat(fixed, steps)),
        DATA: batches_alone,
    }


@functools.cache
def key(seed: int) -> jax.Array:
    """Return a key; each use has its own, so that none profits from an order that another one has computed."""
    return jax.random.key(seed)


def measure(
    candidates: dict[str, Candidate], examples: int, batch_size: int, repeats: int, limit: int | None
) -> tuple[dict[str, Timing], Calibration]:
    """Return seconds a step by name, and how steady the machine was."""
    calibration = Calibration()
    for run in candidates.values():
        run(0, min(limit or 20, 20))
    runs: dict[str, list[tuple[int, float]]] = {name: [] for name in candidates}
    for epoch in range(1, repeats + 1):
        steps = len(epoch_range(examples, batch_size, epoch))
        steps = min(steps, limit or steps)
        for name in list(candidates)[:: 1 if epoch % 2 else -1]:
            number = calibration.sample()
            runs[name].append((number, candidates[name](epoch, steps) / steps))
    calibration.sample()
    return {name: calibration.timing(values) for name, values in runs.items()}, calibration


def report(timings: dict[str, Timing], calibration: Calibration, batch_size: int, steps: int) -> None:
    """Print the table of one batch size and whether the target is met."""
    epoch, floor = timings[EPOCH], timings[FLOOR]
    print(f"\nbatch {batch_size}: {len(epoch.seconds)} rounds that count, of {steps:,} steps")
    print(f"{'ms a step':16s} {'minimum':>9s} {'median':>9s} {'spread':>6s}")
    for name, timing in timings.items():
        print(f"{name:16s} {timing}")
    print(calibration)
    if not (epoch.quiet and floor.quiet):
        print(f"epoch / steps alone: not given, the machine was busy (target <= {TARGET})")
        return
    share = epoch.median / floor.median
    print(
        f"epoch / steps alone: {share:.3f} (medians), {ratio(epoch, floor)} (minima); "
        f"target <= {TARGET}: {'met' if share <= TARGET else 'missed'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lenet5", metavar="NAME", help="default: lenet5")
    parser.add_argument("--dataset", default="mnist", metavar="NAME", help="default: mnist")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 128], metavar="N")
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="rounds (default 7)")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of an epoch at most (default: the whole epoch)")
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="where datasets are prepared (default: TFDS's own)"
    )
    parser.add_argument("--smoke", action="store_true", help="try the command out: 3 rounds of 60 steps")
    args = parser.parse_args()
    if args.smoke:
        args.repeats, args.steps = 3, 60
    split = load_dataset(args.dataset, data_dir=args.data_dir).train
    print(
        f"{args.model} on {args.dataset}, {len(split):,} images; "
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}"
    )
    for batch_size in args.batch_sizes:
        candidates = make_candidates(args.model, split, batch_size)
        timings, calibration = measure(candidates, len(split), batch_size, args.repeats, args.steps)
        steps = len(epoch_range(len(split), batch_size, 1))
        report(timings, calibration, batch_size, min(steps, args.steps or steps))


if __name__ == "__main__":
    main()
