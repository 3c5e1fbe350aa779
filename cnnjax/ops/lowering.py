"""How a primitive of ours reaches the compiler: as the platform has it, or on a CPU as `cnnjax.ops.cpu` has it."""

from collections.abc import Callable

from jax.extend.core import Primitive
from jax.interpreters import mlir


def lower_on_one_cpu(primitive: Primitive, fast: Callable, plain: Callable) -> None:
    """Lower a primitive to `fast` on a CPU that is alone and unsharded, and to `plain` everywhere else."""
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=False))

    def lower(context, *operands, **parameters):
        # Blocks of a sharded batch would be gathered from the other devices: only one device takes the fast path.
        alone = getattr(context.module_context.axis_context, "num_devices", None) == 1
        rule = mlir.lower_fun(fast if alone else plain, multiple_results=False)
        return rule(context, *operands, **parameters)

    mlir.register_lowering(primitive, lower, platform="cpu")
