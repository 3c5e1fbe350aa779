"""Measure what reading receptive fields off deep nets costs: `python bench/receptive_field.py`.

Each net is analysed in processes of its own, which take turns. Nothing but shapes should be needed, so beside the time
the command shows how much the process's peak memory grew during the analysis, and whether any array of an image's size
was alive afterwards or was asked of XLA meanwhile. Columns:

- first: the first analysis in a fresh process, which also makes JAX's own caches; wall and processor time.
- again: the second in the same process, of the same net built anew.
- grown: peak resident memory after the first analysis less that before it, cnnjax and JAX being imported already.
- compiled: programs that XLA compiled meanwhile; 0 means that nothing can have been computed of the image.
- one image, one forward pass: for scale, an image of float32, and the largest of what the net's layers hand on.

The limit is 3 s for the first analysis, wall time, on a machine with nothing else to do. Where other work has the
cores, processor time tells what the machine alone would take at the most: the analysis runs in one thread.
"""

import argparse
import json
import statistics
import subprocess
import sys

LIMIT = 3.0
# Name, and the size and padding of the last feature map, published ones (He et al., Araujo et al.; probed here).
NETS = {"resnet152": (299, 1451, 725), "inception_v3": (299, 1311, 618), "vgg16": (224, 212, 90)}
CHILD = """
import json, resource, sys, time
import jax
from jax import monitoring
from cnnjax import models, summary
from cnnjax.receptive_field import receptive_field, trace

name, size = sys.argv[1], int(sys.argv[2])
compiled = []
monitoring.register_event_duration_secs_listener(
    lambda event, _, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
)
jax.block_until_ready(jax.numpy.zeros(3) + 1)  # the backend is there before anything is measured
before, rows = len(compiled), []
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(2):
    wall, work = time.perf_counter(), time.process_time()
    field = receptive_field(models.build(name), (size, size, 3))
    rows.append((time.perf_counter() - wall, time.process_time() - work))
    if len(rows) == 1:
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
largest = max((array.nbytes for array in jax.live_arrays()), default=0)
programs = len(compiled) - before
print(json.dumps({
    "rows": rows, "grown": grown * 1024, "compiled": programs, "largest": largest, "size": field.size,
    "padding": field.padding, "layers": len(trace(models.build(name), (size, size, 3))),
    "activations": max(row.activation_bytes for row in summary(models.build(name), (size, size, 3)).rows),
}))
"""


def analyse_once(name: str, size: int) -> dict:
    """Return what a fresh interpreter found of a net."""
    done = subprocess.run([sys.executable, "-c", CHILD, name, str(size)], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def report(found: dict[str, list[dict]]) -> None:
    """Print a row a net, and whether the limit is met."""
    heads = ("first: wall", "processor", "again: wall")
    print(f"{'seconds, median (minimum)':26s} " + " ".join(head.rjust(15) for head in heads) + "  grown  compiled")
    for name, runs in found.items():
        columns = [[run["rows"][i][j] for run in runs] for i, j in ((0, 0), (0, 1), (1, 0))]
        words = [f"{statistics.median(column):6.2f} ({min(column):5.2f})" for column in columns]
        grown = statistics.median(run["grown"] for run in runs) / 2**20
        size, expected, padding = NETS[name]
        print(
            f"{name + f' at {size} px':26s} "
            + " ".join(word.rjust(15) for word in words)
            + f"  {grown:.0f} MiB  {max(run['compiled'] for run in runs)}"
        )
        right = all(run["size"] == [expected] * 2 and run["padding"] == [padding] * 2 for run in runs)
        met = "met" if min(columns[0]) < LIMIT else "MISSED" if min(columns[1]) >= LIMIT else "missed, met by processor"
        last = runs[-1]
        print(
            f"  {last['layers']} layers; field {last['size'][0]}, padding {last['padding'][0]}: "
            f"{'as published' if right else 'NOT AS PUBLISHED'}; limit {LIMIT:.0f} s {met}; "
            f"one image {size * size * 3 * 4 / 2**20:.1f} MiB, largest layer {last['activations'] / 2**20:.1f} MiB, "
            f"largest array alive {last['largest'] / 2**20:.3f} MiB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="fresh processes for each net (default 5)")
    parser.add_argument("--smoke", action="store_true", help="try the command out: one process for each net")
    args = parser.parse_args()
    found: dict[str, list[dict]] = {name: [] for name in NETS}
    for _ in range(1 if args.smoke else args.repeats):
        for name, (size, _, _) in NETS.items():
            found[name].append(analyse_once(name, size))
    report(found)


if __name__ == "__main__":
    main()
