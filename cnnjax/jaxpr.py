"""One walker over jaxprs: equations with their linen scopes, the jaxprs inside them, and multiply-accumulates.

    closed = jax.make_jaxpr(functools.partial(model.apply, train=False))(variables, x)  # shapes are enough
    for step in walk(closed):
        step.path    # ("ResNet", "layer1_0", "conv1"): linen's scopes, outermost first; the first is the model's class
        step.eqn     # the equation: step.eqn.primitive.name, step.eqn.outvars[0].aval.shape
        step.times   # how often it runs: the product of the lengths of the scans around it
        step.macs    # multiply-accumulates of all its runs

`walk` gives equations that hold no others, in the order of execution: it goes into jit, remat, custom_jvp, custom_vjp,
scan, while and cond. Of a cond's branches one runs: of `jax.lax.platform_dependent` it takes the default one, of others
the one with the most multiply-accumulates. A while loop's body counts once, since nobody knows how often it runs.
"""

import functools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend import core, source_info_util

from cnnjax import jax_versions
from cnnjax.jax_versions import branch_platforms, branches, open_jaxpr, scan_parts

_LIBRARIES = r"site-packages|[/\\]lib[/\\]python3|[/\\]cnnjax[/\\]ops[/\\]|^<frozen"
_TRANSPOSED = r"[/\\]lax[/\\]convolution\.py:conv_transpose$|[/\\]ops[/\\]conv_transpose\.py:conv_transpose2d$"
_OWN: dict[core.Primitive, tuple[Callable, Callable | None]] = {}  # what `define` was told


@dataclass(frozen=True)
class Step:
    """Say of an equation where it stands and how often it runs.

    Args:
      eqn: The equation; it holds no others, save the two-argument function of a reduction or a sort.
      path: Scopes, outermost first.
      times: Runs of the equation in one run of the whole.
    """

    eqn: core.JaxprEqn
    path: tuple[str, ...] = ()
    times: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all runs."""
        return self.times * macs(self.eqn)


def walk(closed: Any, path: tuple[str, ...] = ()) -> Iterator[Step]:
    """Go through the equations that are executed, in order.

    Args:
      closed: A jaxpr, closed or not.
      path: Scopes around it.
    Returns:
      An iterator over steps.
    Example:
      >>> import jax.numpy as jnp
      >>> closed = jax.make_jaxpr(jax.jit(lambda x: jnp.tanh(x) * 2))(1.0)
      >>> [step.eqn.primitive.name for step in walk(closed)]
      ['tanh', 'mul']
    """
    for eqn in open_jaxpr(closed).eqns:
        here = path + scope(eqn)
        if eqn.primitive.name == "cond":
            taken = _taken(eqn)
            yield from walk(taken, here) if taken.eqns else ()
            continue
        inner, times = _inside(eqn)
        if not inner:
            yield Step(eqn, here)
        for jaxpr in inner:
            for step in walk(jaxpr, here):
                yield Step(step.eqn, step.path, times * step.times)


def count_macs(function: Callable, *args: Any) -> int:
    """Count the multiply-accumulates of convolutions and matrix products, without running anything.

    Args:
      function: Any function of arrays that JAX can trace.
      *args: Its arguments, arrays or `jax.ShapeDtypeStruct`.
    Returns:
      Their number for one call. Padding counts as if it were pixels, as it does in every published table.
    Example:
      >>> import numpy as np
      >>> count_macs(lambda a, b: a @ b, np.ones((2, 3)), np.ones((3, 5)))
      30
    """
    return sum(step.macs for step in walk(jax.make_jaxpr(function)(*args)))


def macs(eqn: core.JaxprEqn) -> int:
    """Count the multiply-accumulates of one run of one equation: convolutions and matrix products have some.

    A transposed convolution counts what meets a pixel and not the zeros between them. The gradients of a convolution
    cost what it costs itself.
    """
    name, params = eqn.primitive.name, jax_versions.params(eqn)
    _, counted = _OWN.get(eqn.primitive, (None, None))
    if counted is not None:
        return counted(params)
    if name == "conv_general_dilated":
        lhs, rhs, out = shape(eqn.invars[0]), shape(eqn.invars[1]), shape(eqn.outvars[0])
        dimensions = params["dimension_numbers"]
        features = rhs[dimensions.rhs_spec[0]]
        if any(dilation != 1 for dilation in params["lhs_dilation"]) or _is_transposed(eqn):
            taps = math.prod(rhs[axis] for axis in dimensions.rhs_spec[2:])
            return math.prod(lhs) * taps * features // params["feature_group_count"]
        return math.prod(out) * (math.prod(rhs) // features if features else 0)
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        lhs = shape(eqn.invars[0])
        return math.prod(shape(eqn.outvars[0])) * math.prod(lhs[axis] for axis in contracted)
    return 0


def _is_transposed(eqn: core.JaxprEqn) -> bool:
    """Say whether a transposed convolution made an equation; at stride 1 nothing else tells it from another."""
    traceback = eqn.source_info.traceback
    if traceback is None or "transpose(" in str(eqn.source_info.name_stack):
        return False
    return any(re.search(_TRANSPOSED, f"{frame.file_name}:{frame.function_name}") for frame in traceback.frames)


def shape(atom: Any) -> tuple[int, ...]:
    """Return the shape of an equation's operand or result; what is no array (a token) has none."""
    return tuple(getattr(atom.aval, "shape", ()))


def define(primitive: core.Primitive, meaning: Callable, macs: Callable | None = None) -> None:
    """Say how a primitive that is not JAX's is read and counted.

    Args:
      primitive: The primitive, of one result.
      meaning: A function of its operands and parameters that does the same with JAX's own.
      macs: A function of its parameters that counts its multiply-accumulates; None if it has none.
    """
    _OWN[primitive] = meaning, macs


def is_defined(eqn: core.JaxprEqn) -> bool:
    """Say whether an equation's primitive was given to `define`."""
    return eqn.primitive in _OWN


def meaning(eqn: core.JaxprEqn) -> Any | None:
    """Return the closed jaxpr that does the same as an equation of a defined primitive, or None for any other."""
    if not is_defined(eqn):
        return None
    avals: list[Any] = [var.aval for var in eqn.invars]
    operands = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
    return jax.make_jaxpr(functools.partial(_OWN[eqn.primitive][0], **jax_versions.params(eqn)))(*operands)


def is_dear(primitive: core.Primitive) -> bool:
    """Say whether a primitive multiplies matrices or convolves, so that its result is dear to compute again."""
    return primitive.name in ("conv_general_dilated", "dot_general") or _OWN.get(primitive, (None, None))[1] is not None


def is_platform_choice(eqn: core.JaxprEqn) -> bool:
    """Say whether a cond stands for `jax.lax.platform_dependent`, whose branches compute the same thing."""
    return branch_platforms(eqn) is not None


def default_branch(eqn: core.JaxprEqn) -> Any:
    """Return the branch of a platform choice that is for no platform by name, or the last."""
    platforms = branch_platforms(eqn) or ()
    return branches(eqn)[platforms.index(None) if None in platforms else -1]


def scope(eqn: core.JaxprEqn) -> tuple[str, ...]:
    """Return the names of the scopes between an equation and the jaxpr that it stands in, outermost first.

    Those are what linen's modules are called. A method other than `__call__` does not count (`conv.features` inside
    `conv` is `conv`), nor does a transformation (`jvp(conv)` is `conv`).
    """
    return _scope(str(eqn.source_info.name_stack))


@functools.lru_cache(maxsize=4096)
def _scope(text: str) -> tuple[str, ...]:
    names: list[str] = []
    for part in re.sub(r"\w+\(|\)", "", text).split("/"):
        module, _, method = part.partition(".")
        if part and not (method and names and names[-1] == module):
            names.append(part if names or not method.isidentifier() else module)
    return tuple(names)


def source_line(*eqns: core.JaxprEqn) -> str:
    """Return `file:line (function)` of the innermost code outside libraries and `cnnjax.ops` that made an equation.

    Args:
      *eqns: The equation, then those around it, innermost first: what a library compiles once for everybody, such as
        `jnp.sort`, does not know from where it is called.
    """
    for eqn in eqns:
        traceback = eqn.source_info.traceback
        for frame in traceback.frames if traceback else ():
            if not re.search(_LIBRARIES, frame.file_name):
                return f"{frame.file_name}:{frame.line_num} ({frame.function_name})"
    return next(filter(None, (source_info_util.summarize(eqn.source_info) for eqn in eqns)), "an unknown line")


def _inside(eqn: core.JaxprEqn) -> tuple[list[core.Jaxpr], int]:
    """Return the jaxprs to walk instead of an equation, and how often each runs."""
    name = eqn.primitive.name
    if name.startswith(("reduce", "scatter", "sort", "select_and")):
        return [], 1  # the function of two numbers that is applied to many
    return jax_versions.inner_jaxprs(eqn), scan_parts(eqn).length if name == "scan" else 1


def _taken(eqn: core.JaxprEqn) -> core.Jaxpr:
    if is_platform_choice(eqn):
        return open_jaxpr(default_branch(eqn))
    return max(map(open_jaxpr, branches(eqn)), key=lambda branch: sum(step.macs for step in walk(branch)))
