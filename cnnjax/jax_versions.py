"""What differs between versions of JAX, 0.10 to 0.12: parameters of equations, lowering contexts, XLA's options.

Whatever reads such a thing asks here and nowhere else. On a JAX that has changed it, the answer is `UnknownJaxError`,
which names what was looked for; `tests/test_jax_versions.py` asks every question.
"""

import functools
import warnings
from dataclasses import dataclass
from typing import Any

import jax
from jax.core import ShapedArray
from jax.extend import core

# XLA's options for the compiler on a CPU, which `compiler_options=` of `jax.jit` takes.
HEAP_SIZE = "xla_multiheap_size_constraint_per_heap"
YNN_FUSION = "xla_cpu_experimental_ynn_fusion_type"
NO_EXPENSIVE_PASSES = "xla_llvm_disable_expensive_passes"

# Equations that merely call a jaxpr: it takes their operands as they are and gives their results as they are. The
# parameter that holds it, by the versions' names.
_CALLS = {
    "call": ("call_jaxpr",),  # until 0.11.0
    "checkpoint": ("jaxpr",),
    "closed_call": ("call_jaxpr",),  # until 0.11.0
    "composite": ("jaxpr", "call_jaxpr"),  # until 0.10, from 0.11
    "core_call": ("call_jaxpr",),
    "custom_jvp_call": ("call_jaxpr",),
    "custom_vjp_call": ("call_jaxpr",),
    "custom_vmap_call": ("call",),
    "eval_jaxpr": ("call_jaxpr",),  # from 0.11.1
    "jit": ("jaxpr",),
    "pjit": ("jaxpr",),
    "remat": ("jaxpr",),
    "remat2": ("jaxpr",),
}
_HIGH_LEVEL = "_prim"  # the parameter that holds a high-level primitive, of which JAX itself makes some from 0.12 on
# From 0.11 on a jaxpr holds its constants itself, and both names mean the same class.
_CLOSED_APART = getattr(core, "ClosedJaxpr", core.Jaxpr) is not core.Jaxpr
# What a program may be lowered for; only the first says how many devices there are.
_SHARDED, _OTHER_CONTEXTS = "ShardingContext", ("ReplicaAxisContext", "SPMDAxisContext")


class UnknownJaxError(RuntimeError):
    """A thing of JAX's that is not where it is in the versions that cnnjax knows."""

    def __init__(self, what: str):
        super().__init__(
            f"cnnjax: this JAX ({jax.__version__}) {what}. cnnjax knows JAX 0.10 to 0.12: install one of those, or "
            "report it, please."
        )


@dataclass(frozen=True)
class Scan:
    """The parts of a scan: operands are constants, carried values and rows; results are carried values and rows."""

    num_consts: int
    num_carry: int
    length: int
    reverse: bool
    body: Any


@dataclass(frozen=True)
class While:
    """The parts of a while loop: operands are the test's constants, the body's constants and carried values."""

    test_consts: int
    body_consts: int
    test: Any
    body: Any


class _Params(dict):
    """The parameters of an equation, one that is missing said in words."""

    def __init__(self, eqn: core.JaxprEqn):
        super().__init__(eqn.params)
        self._name = eqn.primitive.name

    def __missing__(self, key: str) -> Any:
        raise UnknownJaxError(f"has no parameter {key!r} of {self._name!r}, only {', '.join(map(repr, self))}")


def params(eqn: core.JaxprEqn) -> dict[str, Any]:
    """Return the parameters of an equation; asking for one that it does not have raises `UnknownJaxError`."""
    return _Params(eqn)


def scan_parts(eqn: core.JaxprEqn) -> Scan:
    """Return the parts of a scan."""
    found = params(eqn)
    if "num_carry" in found:  # until 0.10
        consts, carry = found["num_consts"], found["num_carry"]
    else:
        try:
            consts, carry, _ = map(len, found["ft_in"].unpack())
        except (AttributeError, TypeError, ValueError) as error:
            raise UnknownJaxError("groups the operands of a scan in another way") from error
    return Scan(consts, carry, found["length"], found["reverse"], found["jaxpr"])


def while_parts(eqn: core.JaxprEqn) -> While:
    """Return the parts of a while loop."""
    found = params(eqn)
    return While(found["cond_nconsts"], found["body_nconsts"], found["cond_jaxpr"], found["body_jaxpr"])


def branches(eqn: core.JaxprEqn) -> tuple[Any, ...]:
    """Return the jaxprs that a cond chooses from by its first operand."""
    return tuple(params(eqn)["branches"])


def branch_platforms(eqn: core.JaxprEqn) -> tuple[tuple[str, ...] | None, ...] | None:
    """Return, of a cond that stands for `jax.lax.platform_dependent`, each branch's platforms; None of another cond."""
    # A cond of the ordinary kind has no such parameter at all.
    return eqn.params.get("branches_platforms") if eqn.primitive.name == "cond" else None


def call_jaxpr(eqn: core.JaxprEqn) -> Any | None:
    """Return the closed jaxpr that an equation merely calls (jit, remat, custom_jvp, custom_vjp), or None."""
    if _HIGH_LEVEL in eqn.params:
        return _expanded(eqn)
    names = _CALLS.get(eqn.primitive.name)
    if names is None:
        return None
    found = next((eqn.params[name] for name in names if name in eqn.params), None)
    if found is None:
        raise UnknownJaxError(f"keeps what {eqn.primitive.name!r} calls in none of {', '.join(names)}")
    return closed_jaxpr(found)


def inner_jaxprs(eqn: core.JaxprEqn) -> list[core.Jaxpr]:
    """Return every jaxpr that an equation holds, without constants."""
    return [open_jaxpr(_expanded(eqn))] if _HIGH_LEVEL in eqn.params else list(core.jaxprs_in_params(eqn.params))


def _expanded(eqn: core.JaxprEqn) -> Any:
    """Return what a high-level primitive, such as 0.12's search in a table, is made of."""
    primitive = eqn.params[_HIGH_LEVEL]
    avals: Any = [var.aval for var in eqn.invars]
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
    try:
        return jax.make_jaxpr(lambda *flat: primitive.expand(*primitive.in_tree.unflatten(flat)))(*shapes)
    except AttributeError as error:
        raise UnknownJaxError(f"expands the high-level primitive {eqn.primitive.name!r} in another way") from error


def open_jaxpr(jaxpr: Any) -> core.Jaxpr:
    """Return the jaxpr without its constants."""
    return jaxpr.jaxpr if _CLOSED_APART and isinstance(jaxpr, core.ClosedJaxpr) else jaxpr


def closed_jaxpr(jaxpr: Any) -> Any:
    """Return the jaxpr with its constants; one that is open must have none."""
    return core.ClosedJaxpr(jaxpr, ()) if _CLOSED_APART and isinstance(jaxpr, core.Jaxpr) else jaxpr


def shortened(closed: Any, count: int, outputs: list[Any]) -> Any:
    """Return the closed jaxpr of the first equations alone, with other outputs."""
    inside = open_jaxpr(closed)
    short = inside.replace(eqns=inside.eqns[:count], outvars=outputs)
    return core.ClosedJaxpr(short, closed.consts) if _CLOSED_APART else short


def is_mutable(atom: Any) -> bool:
    """Say whether an operand or result is a place that equations write to, such as `jax.new_ref` makes."""
    return not isinstance(atom.aval, ShapedArray) and "Token" not in type(atom.aval).__name__


def on_no_mesh(array: Any) -> bool:
    """Say whether an array belongs to no mesh whose axes its type shows."""
    # Under manual or explicit axes a type carries its sharding, and blocks would cut across it.
    aval = jax.typeof(array)
    try:
        return jax.sharding.get_abstract_mesh().empty and aval.sharding.mesh.empty
    except AttributeError as error:
        raise UnknownJaxError(f"keeps the sharding of {type(aval).__name__} in another way") from error


def is_for_one_device(context: Any) -> bool:
    """Say whether a lowering rule's program is for one device alone; a context of an unknown kind warns and is not."""
    axes = context.module_context.axis_context
    kind = type(axes).__name__
    if kind not in (_SHARDED, *_OTHER_CONTEXTS) or (kind == _SHARDED and not hasattr(axes, "num_devices")):
        _warn(f"lowers in a context that is not known, {kind}, so cnnjax's CPU algorithms stay unused")
        return False
    return kind == _SHARDED and axes.num_devices == 1


def without_jit() -> bool:
    """Say whether `jax.disable_jit` holds."""
    return _config("jax_disable_jit")


def compile_cache() -> str | None:
    """Return the folder in which JAX keeps compiled programs, or None."""
    return (_config("jax_compilation_cache_dir") or None) if _config("jax_enable_compilation_cache") else None


def takes_options(**options: Any) -> bool:
    """Say whether XLA on this machine knows compiler options."""
    return _takes(tuple(options.items()))


@functools.cache
def _takes(options: tuple[tuple[str, Any], ...]) -> bool:
    try:
        jax.jit(lambda x: x, compiler_options=dict(options)).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _config(name: str) -> Any:
    try:
        return getattr(jax.config, name)
    except AttributeError as error:
        raise UnknownJaxError(f"has no setting {name}") from error


@functools.cache
def _warn(what: str) -> None:
    warnings.warn(str(UnknownJaxError(what)), RuntimeWarning, stacklevel=3)
