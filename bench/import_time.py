"""Measure what importing cnnjax costs beyond jax, flax.linen and optax: `python bench/import_time.py`.

Every measurement is a fresh interpreter that times its own import statements (starting Python is not counted); the
kinds take turns, after one unmeasured run of each that writes the bytecode. Rows:

- jax, flax.linen, optax: what everybody who uses them pays; the floor.
- cnnjax: `import cnnjax` alone. Its subpackages load when first named, so this may well be below the floor.
- cnnjax and every subpackage: the dearest way to import it.
- cnnjax after jax, ... and subpackages after jax, ...: the same two, timed once the floor is already loaded. There
  the noise of loading JAX is left out: the best estimate of what cnnjax itself adds.

"beyond" is the row's median less the floor's; the limit is 0.3 s. The last lines name the modules that must not be
loaded.
"""

import argparse
import json
import statistics
import subprocess
import sys

LIMIT = 0.3
FLOOR = "import jax, flax.linen, optax"
PACKAGE = "import cnnjax"
EVERYTHING = (
    "import importlib, pkgutil, cnnjax; "
    "names = [module.name for module in pkgutil.iter_modules(cnnjax.__path__) if module.name != '__main__']; "
    "[importlib.import_module(f'cnnjax.{name}') for name in names]"
)
# Name, what is imported before the clock starts, what is timed.
KINDS = {
    "jax, flax.linen, optax": ("", FLOOR),
    "cnnjax": ("", PACKAGE),
    "cnnjax and every subpackage": ("", EVERYTHING),
    "cnnjax after jax, ...": (FLOOR, PACKAGE),
    "subpackages after jax, ...": (FLOOR, EVERYTHING),
}
UNWANTED = ("tensorflow", "tensorflow_datasets", "torch", "keras", "matplotlib")
CHILD = """
import json, sys, time
{before}
begin = time.perf_counter()
{timed}
seconds = time.perf_counter() - begin
print(json.dumps([seconds, sorted(name for name in sys.modules if "." not in name)]))
"""


def import_once(before: str, timed: str) -> tuple[float, set[str]]:
    """Return the seconds of the timed statement in a fresh interpreter, and the modules that it ended up with."""
    child = CHILD.format(before=before, timed=timed)
    done = subprocess.run([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True, check=True)
    seconds, modules = json.loads(done.stdout)
    return seconds, set(modules)


def report(seconds: dict[str, list[float]], modules: dict[str, set[str]]) -> None:
    floor = statistics.median(next(iter(seconds.values())))
    print(f"{'seconds':30s} {'minimum':>8s} {'median':>8s} {'maximum':>8s} {'beyond':>8s}  limit {LIMIT} s")
    for name, values in seconds.items():
        median = statistics.median(values)
        before, timed = KINDS[name]
        line = f"{name:30s} {min(values):8.3f} {median:8.3f} {max(values):8.3f}"
        if timed != FLOOR:
            beyond = median if before else median - floor
            line += f" {beyond:+8.3f}  {'met' if beyond <= LIMIT else 'MISSED'}"
        print(line)
    for name, loaded in modules.items():
        if "cnnjax" in loaded:
            unwanted = [module for module in UNWANTED if module in loaded]
            print(f"{name}: loads {', '.join(unwanted) or 'none'} of {', '.join(UNWANTED)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, metavar="N", help="fresh processes of each kind (default 9)")
    parser.add_argument("--smoke", action="store_true", help="try the command out: 2 processes of each kind")
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in KINDS}
    modules = {}
    for round_number in range(1 + (2 if args.smoke else args.repeats)):
        for name, (before, timed) in KINDS.items():
            taken, modules[name] = import_once(before, timed)
            if round_number:
                seconds[name].append(taken)
    report(seconds, modules)


if __name__ == "__main__":
    main()
