"""How a primitive of ours is computed: as the platform has it, or on a CPU as `cnnjax.ops.cpu` has it."""

from collections.abc import Callable, Sequence

import jax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from cnnjax import jax_versions, jaxpr


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
