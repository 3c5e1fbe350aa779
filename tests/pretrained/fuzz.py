"""Mutate a file of weights, or one after the other of a folder's, many times in one process with limits.

Run as `python -m tests.pretrained.fuzz FILE SCRATCH SEED COUNT FIRST`; prints a line for each mutation from the first
on, what became of it and the seconds it took. Readers that otherwise have a process for each file run in this one: if a
library ends it, `run` shows the file in question to `open_file`, and goes on behind it.
"""

import contextlib
import hashlib
import importlib
import json
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings

import numpy as np

from cnnjax.pretrained import SourceFile, SourceTensor

MEMORY, SECONDS = 500 << 20, 2.0


def mutations(original, seed, count):
    """Give mutated bytes: single bits, bytes, numbers, cut, doubled, swapped and inserted pieces."""
    random_ = random.Random(seed)
    for _ in range(count):
        data = bytearray(original)
        for _ in range(random_.choice((1, 1, 1, 2, 5))):
            place, kind = random_.randrange(len(data)), random_.randrange(8)
            length = random_.randrange(1, 65)
            if kind == 0:
                data[place] ^= 1 << random_.randrange(8)
            elif kind == 1:
                data[place] = random_.choice((0, 1, 0x7F, 0x80, 0xFF, random_.randrange(256)))
            elif kind == 2:
                width = random_.choice((2, 4, 8))
                value = random_.choice((0, 1, 2 ** (8 * width - 1) - 1, 2 ** (8 * width) - 1, 2 ** (4 * width)))
                data[place : place + width] = value.to_bytes(width, random_.choice(("little", "big")))
            elif kind == 3:
                del data[place : place + length]
            elif kind == 4:
                data[place:place] = data[place : place + length]
            elif kind == 5:
                other = random_.randrange(len(data))
                data[place : place + length], data[other : other + length] = (
                    data[other : other + length],
                    data[place : place + length],
                )
            elif kind == 6:
                data[place:place] = random_.randbytes(length)
            else:
                del data[place:]
            data = data or bytearray(b"\0")
        yield bytes(data)


def content(path):
    """Return every tensor's name, shape and type, and the hash of its values."""
    from cnnjax.pretrained import tensors

    kind = None
    with contextlib.suppress(tensors.WeightsError, OSError):
        kind = tensors._CHILDREN.get(tensors._kind_of(path))
    if kind:
        return content_here(kind, path)
    found = tensors.open_file(path).tensors
    described = {name: (tensor.shape, tensor.dtype.name) for name, tensor in found.items()}
    return described, {name: hashlib.sha256(tensor.read().tobytes()).hexdigest() for name, tensor in found.items()}


def content_here(reader, path):
    """Return the same as the child of a file would hand it over, without a child."""
    from cnnjax.pretrained.readers import WeightsError, checked_size
    from cnnjax.pretrained.readers.__main__ import explain
    from cnnjax.safetensors import DTYPES

    try:
        found = importlib.import_module(f"cnnjax.pretrained.readers.{reader}").read(str(path)).tensors
        for tensor in found:
            checked_size(tensor.name, tensor.shape, DTYPES[tensor.code].itemsize, 1 << 62)
        values = {tensor.name: b"".join(map(bytes, tensor.pieces())) for tensor in found}
    except Exception as error:
        raise WeightsError(f"{path}: {explain(error)}") from error
    assert all(len(values[t.name]) == np.prod(t.shape) * DTYPES[t.code].itemsize for t in found)
    described = {tensor.name: (tensor.shape, DTYPES[tensor.code].name) for tensor in found}
    return described, {name: hashlib.sha256(value).hexdigest() for name, value in values.items()}


def fits(described, expected):
    """Return whether the matching of `load` takes it for a model with exactly the arrays that are expected."""
    import ml_dtypes  # noqa: F401  tells NumPy of bfloat16

    from cnnjax.pretrained.match import match
    from cnnjax.pretrained.naming import CNNJAX, Rule
    from cnnjax.pretrained.report import explain_misfit, list_misfit

    tensors = {
        name: SourceTensor(name, shape, np.dtype(dtype), no_values) for name, (shape, dtype) in described.items()
    }
    file = SourceFile(pathlib.Path("file"), "any", tensors)
    shapes = {f"params/{name}": shape for name, (shape, _) in expected.items()}
    plan = match(file, shapes, (Rule("{rest*}", "params/{rest*}"),), CNNJAX, naming="the test")
    if plan.problems:  # the message is made of the file's own names
        assert explain_misfit(file, plan, shapes, "Net", {}).startswith("file: it does not fit Net by the names of")
        assert list_misfit(file, plan, shapes, {})
    return not plan.problems


def no_values():
    raise AssertionError("matching reads no values")


def outcome(path, original):
    from cnnjax.pretrained import WeightsError

    described, hashes = original
    try:
        found, found_hashes = content(path)
        taken = fits(found, described)
    except WeightsError as error:
        line = str(error)
        return "refused" if line.startswith(f"{path}: ") and "\n" not in line else f"other error: {line}"
    except (Exception, MemoryError) as error:
        return f"crash: {type(error).__name__}: {error}"
    if not taken:
        return "refused by load"
    return "identical" if (found, found_hashes) == (described, hashes) else "other values"


def measured(path, original):
    """Return the outcome and the seconds it took by the clock; what does not end ends the process."""
    signal.setitimer(signal.ITIMER_REAL, 5 * SECONDS)
    begin = time.monotonic()
    found = outcome(path, original)
    seconds = time.monotonic() - begin
    signal.setitimer(signal.ITIMER_REAL, 0)
    return found, seconds


def mutated(file, scratch, seed, count):
    """Put a mutation into the scratch place, `count` times; of a folder's files one at a time, the others whole.

    A seed that is not a number is a JSON list of bytes and bits to flip.
    """
    if not seed.isdigit():
        for place, bit in json.loads(seed):
            data = bytearray(file.read_bytes())
            data[place] ^= 1 << bit
            scratch.write_bytes(data)
            yield
        return
    if not file.is_dir():
        for data in mutations(file.read_bytes(), int(seed), count):
            scratch.write_bytes(data)
            yield
        return
    shutil.copytree(file, scratch)
    parts = [part.relative_to(file) for part in sorted(file.rglob("*")) if part.is_file() and part.stat().st_size]
    each = [mutations((file / part).read_bytes(), int(seed) + number, count) for number, part in enumerate(parts)]
    for number in range(count):
        turn = number % len(parts)
        (scratch / parts[turn]).write_bytes(next(each[turn]))
        yield
        shutil.copyfile(file / parts[turn], scratch / parts[turn])


def main(file, scratch, seed, count, first):
    warnings.simplefilter("ignore", ResourceWarning)  # a reader's process ends with its file
    file, scratch = pathlib.Path(file), pathlib.Path(scratch)
    expected = content(file)
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for number, _ in enumerate(mutated(file, scratch, seed, int(count))):
        if number >= int(first):
            found, seconds = measured(scratch, expected)
            if seconds > SECONDS:  # the machine may have been busy with something else
                seconds = min(seconds, measured(scratch, expected)[1])
            print(json.dumps([found, seconds]), flush=True)  # noqa: T201
    assert not file.is_dir() or content(scratch) == expected  # nothing was changed but what was mutated


def run(file, scratch, seed, count):
    """Return how often each outcome came, and the longest time one took, libraries that end the process included."""
    from cnnjax.pretrained import WeightsError, open_file
    from cnnjax.pretrained.readers import child

    outcomes, slowest, done = {}, 0.0, 0
    while done < count:
        words = [sys.executable, "-m", "tests.pretrained.fuzz", file, scratch, str(seed), str(count), str(done)]
        process = subprocess.run(words, capture_output=True, text=True, timeout=600)
        for line in process.stdout.splitlines():
            found, seconds = json.loads(line)
            outcomes[found], slowest, done = outcomes.get(found, 0) + 1, max(slowest, seconds), done + 1
        if done < count:
            assert process.returncode < 0, process.stderr[-2000:]
            before, child.SECONDS = child.SECONDS, 2
            try:
                for tensor in open_file(scratch).tensors.values():
                    tensor.read()
                found = "other values"
            except WeightsError as error:
                found = "refused" if str(error).startswith(f"{scratch}: ") else f"other error: {error}"
            child.SECONDS, done = before, done + 1
            outcomes[found] = outcomes.get(found, 0) + 1
            shutil.rmtree(scratch) if scratch.is_dir() else scratch.unlink()
    return outcomes, slowest


if __name__ == "__main__":
    main(*sys.argv[1:])
