"""Time convolutions and pools of cnnjax against jax.lax, and torch where it is installed: `python -m bench.ops`.

Each line: milliseconds (minimum), GFLOP/s of the direct convolution, and how many times faster than jax.lax. No ratio
is printed when the calibrating matmul was off its median by more than 15 % nearly all the while.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bench.timing import alternate, ratio
from cnnjax import ops

# name, images [N, H, W, C], kernel [H, W, C / groups, O], stride, padding a side
CONVOLUTIONS = [
    ("LeNet-5 C1, b32", (32, 28, 28, 1), (5, 5, 1, 6), 1, 2),
    ("LeNet-5 C1, b256", (256, 28, 28, 1), (5, 5, 1, 6), 1, 2),
    ("LeNet-5 C3, b32", (32, 14, 14, 6), (5, 5, 6, 16), 1, 0),
    ("LeNet-5 C3, b256", (256, 14, 14, 6), (5, 5, 6, 16), 1, 0),
    ("CIFAR stem 16, b128", (128, 32, 32, 3), (3, 3, 3, 16), 1, 1),
    ("CIFAR stem 64, b32", (32, 32, 32, 3), (3, 3, 3, 64), 1, 1),
    ("3x3 64, b32", (32, 32, 32, 64), (3, 3, 64, 64), 1, 1),
    ("3x3 128, b32", (32, 16, 16, 128), (3, 3, 128, 128), 1, 1),
    ("3x3 256, b32", (32, 8, 8, 256), (3, 3, 256, 256), 1, 1),
    ("3x3 512, b32", (32, 4, 4, 512), (3, 3, 512, 512), 1, 1),
    ("3x3 512, b32, 2x2", (32, 2, 2, 512), (3, 3, 512, 512), 1, 1),
    ("3x3 32, b128", (128, 16, 16, 32), (3, 3, 32, 32), 1, 1),
    ("3x3 64, b8", (8, 56, 56, 64), (3, 3, 64, 64), 1, 1),
    ("3x3 64, b1", (1, 56, 56, 64), (3, 3, 64, 64), 1, 1),
    ("3x3 128, b1", (1, 28, 28, 128), (3, 3, 128, 128), 1, 1),
    ("3x3 64 to 128 s2, b32", (32, 32, 32, 64), (3, 3, 64, 128), 2, 1),
    ("1x1 256 to 64, b32", (32, 16, 16, 256), (1, 1, 256, 64), 1, 0),
    ("1x1 64 to 256, b8", (8, 56, 56, 64), (1, 1, 64, 256), 1, 0),
    ("depthwise 3x3 96", (8, 56, 56, 96), (3, 3, 1, 96), 1, 1),
    ("depthwise 3x3 144 s2", (8, 56, 56, 144), (3, 3, 1, 144), 2, 1),
    ("depthwise 3x3 576", (8, 14, 14, 576), (3, 3, 1, 576), 1, 1),
    ("depthwise 5x5 240", (8, 28, 28, 240), (5, 5, 1, 240), 1, 2),
    ("depthwise 7x7 96", (8, 56, 56, 96), (7, 7, 1, 96), 1, 3),
    ("32 groups of 4", (8, 56, 56, 128), (3, 3, 4, 128), 1, 1),
    ("32 groups of 16", (8, 14, 14, 512), (3, 3, 16, 512), 1, 1),
]
POOLS = [("max 2/2, b256", (256, 28, 28, 6), 2, 2), ("max 3/2, b32", (32, 56, 56, 64), 3, 2)]


def three_roles(conv, x, k):
    """Return forward, input gradient and kernel gradient of a convolution, compiled, as calls without arguments."""
    g = jnp.ones(jax.eval_shape(conv, x, k).shape, x.dtype)
    calls = {
        "forward": (conv, (x, k)),
        "input gradient": (lambda g, k: jax.vjp(lambda x: conv(x, k), x)[1](g)[0], (g, k)),
        "kernel gradient": (lambda x, g: jax.vjp(lambda k: conv(x, k), k)[1](g)[0], (x, g)),
    }
    return {role: partial(jax.jit(f), *arguments) for role, (f, arguments) in calls.items()}


def chosen(only: str) -> list[tuple]:
    """Return the convolutions whose names contain a text."""
    return [row for row in CONVOLUTIONS if only in row[0]]


def convolutions(budget: float, only: str) -> None:
    rng = np.random.default_rng(0)
    for name, x_shape, k_shape, stride, pad in chosen(only):
        groups = x_shape[3] // k_shape[2]
        options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": groups}
        x, k = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in (x_shape, k_shape))
        window = {"window_strides": (stride, stride), "padding": [(pad, pad), (pad, pad)], **options}
        theirs = three_roles(partial(lax.conv_general_dilated, **window), x, k)
        ours = three_roles(partial(ops.conv_general_dilated, **window), x, k)
        out = jax.eval_shape(partial(lax.conv_general_dilated, **window), x, k).shape
        gflop = 2 * np.prod(out) * np.prod(k_shape[:3]) / 1e9
        for role, lax_call in theirs.items():
            report(f"{name:22} {role:16}", lax_call, ours[role], gflop, budget)


def pools(budget: float) -> None:
    rng = np.random.default_rng(0)
    for name, shape, window, stride in POOLS:
        x = jnp.asarray(rng.normal(size=shape), jnp.float32)

        def platform(x, window=window, stride=stride):
            return lax.reduce_window(x, -np.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), "VALID")

        ours = partial(ops.max_pool, window=window, strides=stride)
        report(f"{name:22} {'forward':16}", partial(jax.jit(platform), x), partial(jax.jit(ours), x), None, budget)
        theirs_back, ours_back = (jax.jit(jax.grad(lambda x, f=f: f(x).sum())) for f in (platform, ours))
        report(f"{name:22} {'gradient':16}", partial(theirs_back, x), partial(ours_back, x), None, budget)


def report(label, theirs, ours, gflop, budget):
    times, calibration = alternate({"lax": theirs, "cnnjax": ours}, budget=budget)
    cells = [
        f"{times[peer].minimum * 1e3:9.3f}" + (f" {gflop / times[peer].minimum:6.0f}" if gflop else " " * 7)
        for peer in ("lax", "cnnjax")
    ]
    print(label, *cells, f"{ratio(times['lax'], times['cnnjax']):>12}   {calibration}", flush=True)


def torch_roles(x_shape, k_shape, stride, pad):
    """Return the three roles in PyTorch, channels-last, as calls without arguments."""
    import torch  # pyright: ignore[reportMissingImports]

    (n, h, w, c), (kh, kw, i, o) = x_shape, k_shape
    x = torch.randn(n, c, h, w).to(memory_format=torch.channels_last)
    k = torch.randn(o, i, kh, kw).to(memory_format=torch.channels_last)
    forward = partial(torch.nn.functional.conv2d, x, k, None, stride, pad, 1, c // i)
    y = forward()
    window = (None, [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], c // i)
    backward = partial(torch.ops.aten.convolution_backward, y, x, k, *window)
    return {
        "forward": forward,
        "input gradient": partial(backward, [True, False, False]),
        "kernel gradient": partial(backward, [False, True, False]),
    }


def torch_peer(budget: float, only: str) -> None:
    """Print the minimum seconds of the same convolutions in PyTorch as one JSON object (in a process of its own)."""
    results = {}
    for name, *shapes in chosen(only):
        for role, call in torch_roles(*shapes).items():
            call()
            seconds, stop = [], time.perf_counter() + budget
            while time.perf_counter() < stop:
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
            results[f"{name:22} {role:16}"] = min(seconds)
    print(json.dumps(results))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, default=0.5, help="seconds for each op of each peer")
    parser.add_argument("--only", default="", help="take only convolutions whose names contain this, and no pools")
    parser.add_argument("--torch-peer", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.torch_peer:
        torch_peer(arguments.budget, arguments.only)
        return
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}; ms, GFLOP/s: jax.lax | cnnjax, times faster")
    convolutions(arguments.budget, arguments.only)
    if not arguments.only:
        pools(arguments.budget)
    if importlib.util.find_spec("torch") is None:
        print("torch: not installed, skipped")
        return
    command = [sys.executable, "-m", "bench.ops", "--torch-peer", "--budget", str(arguments.budget)]
    command += ["--only", arguments.only]
    for label, seconds in json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout
    ).items():
        print(label, f"torch {seconds * 1e3:9.3f}")


if __name__ == "__main__":
    main()
