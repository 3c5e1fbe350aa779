"""Train recipes with several seeds and print their test accuracy: `python bench/accuracy.py lenet5-mnist --seeds 3`.

Each run is `cnnjax train --recipe R --seed S --json` in a process and a workdir of its own, one after the other. A
line is printed as each run ends; then a table in Markdown, a row a recipe: test accuracy in per cent (mean, lowest,
highest, and the standard deviation over seeds, n - 1 in the divisor), epochs trained, seconds of training
(evaluations included, start-up and compilation in the first epoch; that is `seconds` of the result) and of the whole
process. Accuracy depends on the seed alone, seconds on what else the machine does. The exit code is 1 if a run
failed.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def train(recipe: str, seed: int, options: list[str]) -> dict[str, Any]:
    """Return the result of one run, with the seconds of its whole process; `error` alone if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "cnnjax", "train", "--recipe", recipe, "--seed", str(seed), "--json"]
        begin = time.perf_counter()
        done = subprocess.run(
            [*command, "--workdir", str(Path(folder, "run")), *options], capture_output=True, text=True, check=False
        )
        wall = time.perf_counter() - begin
    if done.returncode:
        return {"error": f"exit code {done.returncode}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"}
    return {**json.loads(done.stdout), "wall": wall}


def row(recipe: str, results: list[dict[str, Any]]) -> str:
    """Return the recipe's row of the table."""
    accuracy = [100 * result["test_accuracy"] for result in results]
    spread = f"{statistics.stdev(accuracy):.3f}" if len(accuracy) > 1 else "-"
    epochs = [result["epochs"] for result in results]
    trained = ", ".join(str(n) for n in epochs) if len(set(epochs)) > 1 else str(epochs[0])
    seconds, wall = (statistics.mean(result[name] for result in results) for name in ("seconds", "wall"))
    return (
        f"| `{recipe}` | {len(results)} | {statistics.mean(accuracy):.2f} | {min(accuracy):.2f} | {max(accuracy):.2f} "
        f"| {spread} | {trained} | {seconds:.0f} | {wall:.0f} |"
    )


def run_recipe(recipe: str, seeds: list[int], options: list[str]) -> list[dict[str, Any]]:
    """Train with each seed, say how each went, return the results of those that did not fail."""
    results = []
    for seed in seeds:
        result = train(recipe, seed, options)
        if "error" in result:
            print(f"{recipe} seed {seed}: {result['error']}", flush=True)
            continue
        results.append(result)
        print(
            f"{recipe} seed {seed}: test accuracy {result['test_accuracy']:.2%}, test loss {result['test_loss']:.4f}, "
            f"{result['epochs']} epochs (kept {result['best_epoch']}), {result['seconds']:.1f} s, "
            f"{result['wall']:.1f} s in all",
            flush=True,
        )
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="such as lenet5-mnist lenet5-mnist-fast")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (default 3)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="S", help="seeds S to S + N - 1 instead")
    parser.add_argument("--data-dir", metavar="DIR", help="where prepared datasets live (default: TFDS's own)")
    parser.add_argument("--epochs", metavar="N", help="epochs at most, in place of the recipe's")
    parser.add_argument("--smoke", action="store_true", help="try the command out: one epoch")
    args = parser.parse_args()
    options = ["--data-dir", args.data_dir] if args.data_dir else []
    if args.smoke or args.epochs:
        options += ["--epochs", args.epochs or "1"]
    seeds = list(range(args.first_seed, args.first_seed + args.seeds))
    results = {recipe: run_recipe(recipe, seeds, options) for recipe in args.recipes}
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("cnnjax", "jax", "flax", "optax"))
    print(f"\n{versions}; Python {platform.python_version()}; {os.cpu_count()} cores, {platform.machine()}\n")
    print("| recipe | seeds | test accuracy %, mean | min | max | std | epochs | seconds | whole process |")
    print("|---|---|---|---|---|---|---|---|---|")
    for recipe, found in results.items():
        if found:
            print(row(recipe, found))
    return 0 if all(len(found) == len(seeds) for found in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
