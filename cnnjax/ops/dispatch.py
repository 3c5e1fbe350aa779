"""The switch between the CPU's own ways and the platform's, and how a primitive of ours is lowered to either."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import jax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from cnnjax import jax_versions, jaxpr

SWITCH = "CNNJAX_CPU_OPS"
_MODES = ("on", "off", "exact")


def cpu_mode() -> str:
    """Return `on`, `off` or `exact`, as the environment variable `CNNJAX_CPU_OPS` says when a function is traced.

    Raises:
      ValueError: If the variable holds anything else.
    """
    mode = os.environ.get(SWITCH, "on").lower() or "on"
    if mode not in _MODES:
        raise ValueError(
            f"{SWITCH}: expected one of {', '.join(_MODES)}, got {mode!r}. Unset it or set it to one of them."
        )
    return mode


@contextmanager
def plain_convolutions() -> Iterator[None]:
    """Trace what is called inside with the platform's own convolutions."""
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "off"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before


def lower_on_one_cpu(
    primitive: Primitive, fast: Callable, plain: Callable, static: Sequence[str] = (), macs: Callable | None = None
) -> None:
    """Compute a primitive by `fast` on a CPU that is alone and unsharded, and by `plain` everywhere else.

    Whoever reads jaxprs takes it for `plain` too.

    Args:
      primitive: The primitive, of one result.
      fast: A function of its operands and parameters.
      plain: The same.
      static: Names of the parameters.
      macs: A function of the parameters that counts multiply-accumulates, if there are any.
    """
    jaxpr.define(primitive, plain, macs)
    compiled = jax.jit(primitive.bind, static_argnames=static)

    def eager(*operands, **parameters):
        # Without jit, for someone who debugs, there is no lowering that could choose.
        return (plain if jax_versions.without_jit() else compiled)(*operands, **parameters)

    def lower(context, *operands, **parameters):
        # Blocks of a sharded batch would be gathered from the other devices: only one device takes the fast path.
        chosen = fast if jax_versions.is_for_one_device(context) else plain
        rule = mlir.lower_fun(chosen, multiple_results=False)
        return rule(context, *operands, **parameters)

    primitive.def_impl(eager)
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=False))
    mlir.register_lowering(primitive, lower, platform="cpu")
