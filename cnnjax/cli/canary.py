"""Small computations of which XLA for the CPU is known to get some wrong without an error; compare NumPy's answer.

`python -m cnnjax.cli.canary` prints them as JSON, in whatever environment it finds.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

NAMES = {
    "constant_kernel": "a kernel of ones, then a 2/2 maximum",
    "nan_in_max_pool": "NaN through a 2/2 max pool",
    "nan_in_maximum": "NaN through the maximum of an image",
    "nan_in_mean": "NaN through the mean of a ReLU",
    "transposed_convolution": "a transposed convolution of few pixels, which can abort the process",
}


def check() -> dict[str, dict[str, str]]:
    """Run every check.

    Returns:
      By check: `ok` or `faulty`, for plain JAX (`lax`) and for `cnnjax.ops` (`ops`).
    """
    return {
        "constant_kernel": _constant_kernel(),
        "nan_in_max_pool": _nan_in_max_pool(),
        "nan_in_maximum": _nan_in_maximum(),
        "nan_in_mean": _nan_in_mean(),
        "transposed_convolution": _transposed_convolution(),
    }


def _judge(functions: dict[str, Callable], x: np.ndarray, right: Callable[[np.ndarray], bool]) -> dict[str, str]:
    import jax

    return {name: "ok" if right(np.asarray(jax.jit(f)(x))) else "faulty" for name, f in functions.items()}


def _images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 64, 64, 32)).astype(np.float32)


def _with_nan() -> tuple[np.ndarray, Callable[[np.ndarray], bool]]:
    x = _images()
    x[1, 10, 11, 5] = np.nan
    return x, lambda y: int(np.isnan(y).sum()) == 1


def _constant_kernel() -> dict[str, str]:
    import jax.numpy as jnp
    from jax import lax

    from cnnjax import ops

    x = _images()
    sums = np.pad(x.sum(3, dtype=np.float64), ((0, 0), (1, 1), (1, 1)))
    boxes = sum(sums[:, a : a + 64, b : b + 64] for a in range(3) for b in range(3))
    truth = np.asarray(boxes).reshape(2, 32, 2, 32, 2, 1).max((2, 4))

    def plain(x: Any) -> Any:
        layout = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x, jnp.ones((3, 3, 32, 8)), (1, 1), "SAME", dimension_numbers=layout)
        return lax.reduce_window(y, -np.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    functions = {"lax": plain, "ops": lambda x: ops.max_pool(ops.conv2d(x, jnp.ones((3, 3, 32, 8))), 2)}
    return _judge(functions, x, lambda y: bool(np.allclose(y, truth, rtol=1e-3, atol=1e-3)))


def _nan_in_max_pool() -> dict[str, str]:
    from jax import lax

    from cnnjax import ops

    def plain(x: Any) -> Any:
        return lax.reduce_window(x, -np.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    return _judge({"lax": plain, "ops": lambda x: ops.max_pool(x, 2)}, *_with_nan())


def _nan_in_maximum() -> dict[str, str]:
    from cnnjax import ops

    return _judge({"lax": lambda x: x.max((1, 2)), "ops": lambda x: ops.max_pool(x, x.shape[1:3])}, *_with_nan())


def _nan_in_mean() -> dict[str, str]:
    import jax

    from cnnjax import ops

    functions = {"lax": lambda x: jax.nn.relu(x).mean((1, 2)), "ops": lambda x: ops.global_avg_pool(jax.nn.relu(x))}
    return _judge(functions, *_with_nan())


def _transposed_convolution() -> dict[str, str]:
    from cnnjax import ops

    x, kernel = np.arange(20.0, dtype=np.float32).reshape(1, 5, 2, 2), np.ones((2, 3, 1, 2), np.float32)

    def up(x: Any) -> Any:
        padding = ((1, 1), (2, 2))
        return ops.conv_transpose2d(x, kernel, strides=(2, 3), padding=padding, transpose_kernel=True)

    rows = x.sum(3).repeat(2, 1)[:, 1:-1]  # strides leave no windows that overlap
    code = (
        "import jax, jax.numpy as jnp; jax.jit(lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), [(0, 0)] * 2, "
        "(2, 3), None, ('NHWC', 'HWIO', 'NHWC')))(jnp.ones((1, 5, 2, 2)), jnp.ones((2, 3, 2, 1)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    ours = _judge({"ops": up}, x, lambda y: bool(np.array_equal(y[..., 0], rows)))
    return {"lax": "faulty" if done.returncode else "ok", **ours}


if __name__ == "__main__":
    json.dump(check(), sys.stdout)
