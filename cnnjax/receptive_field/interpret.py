"""Go through a jaxpr with what each value reads in place of its numbers. Nothing is computed, no image allocated."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from jax.extend import core

from cnnjax import jax_versions, jaxpr
from cnnjax.receptive_field import combining, rules
from cnnjax.receptive_field.value import (
    Constant,
    Note,
    Value,
    computed,
    counted,
    everything,
    is_list,
    joined,
    lawless,
    row_of,
    spatial_hull,
)

# Scans are unrolled to this many steps and loops joined over as many; beyond, everything counts as read.
_MOST_STEPS = 4096


@dataclass(frozen=True)
class Record:
    """Say what one equation that the output depends on makes of the input.

    Args:
      eqn: The equation.
      path: Scopes, outermost first.
      operands: What its operands read.
      results: What its results read.
      position: Its place among the equations of the jaxpr, preceded by the places of the calls that it is inside of.
    """

    eqn: core.JaxprEqn
    path: tuple[str, ...]
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    position: tuple[int, ...]


class Interpreter:
    """Interpret jaxprs and keep a record of every equation that the output depends on.

    What is inside a cond, a scan or a while is not recorded one by one: each of those is one record.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._around: list[core.JaxprEqn] = []
        self._position: list[int] = []
        self._recording = True

    def run(
        self,
        closed: Any,
        inputs: Sequence[Value],
        *,
        path: tuple[str, ...] = (),
        wanted: Sequence[bool] | None = None,
        opaque: Sequence[bool] | None = None,
    ) -> list[Value]:
        """Return what the outputs of a jaxpr read.

        Equations behind no `wanted` output (None: all are) are passed over. `opaque` outputs are parameters, whose
        numbers mean nothing even if they can be known.
        """
        closed = jax_versions.closed_jaxpr(closed)
        inside = jax_versions.open_jaxpr(closed)
        outputs = inside.outvars
        wanted = [True] * len(outputs) if wanted is None else wanted
        hidden = {var for var, hide in zip(outputs, opaque or ()) if hide and not isinstance(var, core.Literal)}
        known: dict[Any, Value] = dict(zip(inside.invars, inputs))
        for var, constant in zip(inside.constvars, closed.consts):
            known[var] = Value(jaxpr.shape(var), constant=Constant.given(constant))

        def read(atom: Any) -> Value:
            if isinstance(atom, core.Literal):
                return Value(jaxpr.shape(atom), constant=Constant.given(atom.val))
            return known.get(atom, Value(jaxpr.shape(atom)))

        live = _live(inside, [out for out, want in zip(outputs, wanted) if want])
        for place, (eqn, needed) in enumerate(zip(inside.eqns, live)):
            if any(map(jax_versions.is_mutable, (*eqn.invars, *eqn.outvars))):
                raise self._untraceable(eqn)
            if not any(needed):
                continue
            self._position.append(place)
            operands = [read(atom) for atom in eqn.invars]
            concealed = [var in hidden for var in eqn.outvars]
            for var, value in zip(eqn.outvars, self._equation(eqn, operands, path, needed, concealed)):
                known[var] = replace(value, constant=None) if var in hidden else value
            self._position.pop()
        hide = opaque or [False] * len(outputs)
        return [replace(read(atom), constant=None) if shut else read(atom) for atom, shut in zip(outputs, hide)]

    def _equation(self, eqn, operands, path, needed, concealed) -> list[Value]:
        here = path + jaxpr.scope(eqn)
        inner = jax_versions.call_jaxpr(eqn)
        if inner is not None:
            self._around.append(eqn)
            results = self.run(inner, operands, path=here, wanted=needed, opaque=concealed)
            self._around.pop()
            return results
        shapes = [jaxpr.shape(var) for var in eqn.outvars]
        if not any(operand.reads for operand in operands):
            branch = _decided(eqn, operands)
            if branch is not None:
                return self.run(branch, operands[1:], wanted=needed, opaque=concealed)
            return computed(eqn, operands, shapes)
        special = {"cond": self._cond, "scan": self._scan, "while": self._while}.get(eqn.primitive.name)
        if jaxpr.is_defined(eqn):
            special = self._defined
        if not all(all(shape) for shape in shapes):
            results = [Value(shape) for shape in shapes]
        elif special is None:
            results = rules.apply(eqn, operands, shapes, lambda text, exact=True: self._note(eqn, text, exact))
        else:
            recording, self._recording = self._recording, False
            self._around.append(eqn)
            results = special(eqn, operands, concealed)
            self._around.pop()
            self._recording = recording
        if self._recording:
            self.records.append(Record(eqn, here, tuple(operands), tuple(results), tuple(self._position)))
        return results

    def _defined(self, eqn: core.JaxprEqn, operands: Sequence[Value], concealed: Sequence[bool]) -> list[Value]:
        return self.run(jaxpr.meaning(eqn), operands, opaque=concealed)

    def _note(self, eqn: core.JaxprEqn, text: str, exact: bool = True) -> Note:
        line = jaxpr.source_line(eqn, *reversed(self._around))
        return Note(f"{eqn.primitive.name} at {line} {text}", exact)

    def _untraceable(self, eqn: core.JaxprEqn) -> ValueError:
        return ValueError(
            "receptive_field: expected a function whose values are all results, got one that writes to a place: "
            f"{eqn.primitive.name} at {jaxpr.source_line(eqn, *reversed(self._around))}. "
            "Return what it writes, without jax.new_ref."
        )

    def _cond(self, eqn: core.JaxprEqn, operands: Sequence[Value], concealed: Sequence[bool]) -> list[Value]:
        choice, inputs, branch = operands[0], operands[1:], _decided(eqn, operands)
        if branch is not None:
            return self.run(branch, inputs, opaque=concealed)
        if jaxpr.is_platform_choice(eqn):
            # The branches are said to compute the same thing. That is checked with channels joined, which is quick.
            results = self.run(jaxpr.default_branch(eqn), inputs)
            wanted, channelless = [spatial_hull(value) for value in results], [spatial_hull(value) for value in inputs]
            others = [self.run(branch, channelless) for branch in jax_versions.branches(eqn)]
            if all(spatial_hull(one).reads_like(want) for each in others for one, want in zip(each, wanted)):
                return results
        branches = [self.run(branch, inputs, opaque=concealed) for branch in jax_versions.branches(eqn)]
        notes = []
        if not all(first.reads_like(other) for first, *rest in zip(*branches) for other in rest):
            notes = [self._note(eqn, "has branches that read different pixels: what any of them reads is joined")]
        if choice.reads:
            notes.append(self._note(eqn, "chooses a branch by what it reads of the input, which is joined"))
        results = []
        for values in zip(*branches):
            result = joined([*values, everything([choice], values[0].shape)])
            results.append(result.noting(*notes) if result.reads else result)
        return results

    def _scan(self, eqn: core.JaxprEqn, operands: Sequence[Value], concealed: Sequence[bool]) -> list[Value]:
        scan = jax_versions.scan_parts(eqn)
        consts, carried, length = scan.num_consts, scan.num_carry, scan.length
        fixed, carry, rows = operands[:consts], list(operands[consts : consts + carried]), operands[consts + carried :]
        if length > _MOST_STEPS:
            unknown = self._note(eqn, f"has {length} steps, taken to read everything", exact=False)
            return [everything(operands, jaxpr.shape(var), unknown) for var in eqn.outvars]
        uneven = any(is_list(value) or any(reach.varies(0) for reach in value.reaches) for value in rows)
        stacked: list[list[Value]] = []
        for step in range(length):
            row = length - 1 - step if scan.reverse else step
            picked = [row_of(value, row) for value in rows]
            results = self.run(scan.body, [*fixed, *carry, *picked], opaque=concealed)
            stacked.append(results[carried:])
            after = [counted(value) for value in results[:carried]]
            steady = all(new.same(old) for new, old in zip(after, carry))
            carry = after
            if steady and not uneven:
                stacked += [results[carried:]] * (length - 1 - step)
                break
        if scan.reverse:
            stacked.reverse()
        return [*carry, *(combining.stacked(values, 0) for values in zip(*stacked))]

    def _while(self, eqn: core.JaxprEqn, operands: Sequence[Value], concealed: Sequence[bool]) -> list[Value]:
        loop = jax_versions.while_parts(eqn)
        tests, bodies = loop.test_consts, loop.body_consts
        test_consts, body_consts = operands[:tests], operands[tests : tests + bodies]
        known = self._counted_while(loop, test_consts, body_consts, operands[tests + bodies :], concealed)
        if known is not None:
            return known
        # How often the body runs is not known: its results join those of any number of runs.
        carry = [replace(lawless(value), constant=None) for value in operands[tests + bodies :]]
        note = self._note(eqn, "runs an unknown number of times: what any number of runs reads is joined", exact=False)
        for _ in range(_MOST_STEPS):
            (test,) = self.run(loop.test, [*test_consts, *carry])
            after = self.run(loop.body, [*body_consts, *carry])
            grown = []
            for old, new in zip(carry, after):
                decided = everything([test], old.shape)
                whole = joined([old, lawless(new), decided])
                grown.append(whole.noting(note) if whole.reads else whole)
            if all(new.same(old) for new, old in zip(grown, carry)):
                return grown
            carry = grown
        unknown = self._note(eqn, "did not settle, so it is taken to read everything", exact=False)
        return [everything(operands, jaxpr.shape(var), unknown) for var in eqn.outvars]

    def _counted_while(self, loop, test_consts, body_consts, carry, concealed) -> list[Value] | None:
        """Run a loop whose test the function itself decides, as of a counter; None if something else does."""
        carry = [counted(value) for value in carry]
        for _ in range(_MOST_STEPS):
            (test,) = self.run(loop.test, [*test_consts, *carry])
            if test.reads or test.constant is None:
                return None
            if not test.constant.value():
                return carry
            after = self.run(loop.body, [*body_consts, *carry], opaque=concealed)
            carry = [counted(value) for value in after]
        return None


def _decided(eqn: core.JaxprEqn, operands: Sequence[Value]) -> Any | None:
    """Return the branch of a cond that the function itself fixes, or None."""
    if eqn.primitive.name != "cond" or jaxpr.is_platform_choice(eqn) or operands[0].constant is None:
        return None
    branches = jax_versions.branches(eqn)
    return branches[min(max(int(operands[0].constant.value()), 0), len(branches) - 1)]


def _live(open_jaxpr: core.Jaxpr, outputs: Sequence[Any]) -> list[list[bool]]:
    """Return, for each equation, which of its results the outputs depend on."""
    needed = {out for out in outputs if not isinstance(out, core.Literal)}
    marks = []
    for eqn in reversed(open_jaxpr.eqns):
        mark = [var in needed for var in eqn.outvars]
        if any(mark):
            needed |= {atom for atom in eqn.invars if not isinstance(atom, core.Literal)}
        marks.append(mark)
    return marks[::-1]
