"""Every question that cnnjax asks of JAX's insides, on the JAX that is installed: what has changed fails here."""

import ast
import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend import core
from jax.extend.core import primitives

import cnnjax
from cnnjax import jax_versions, ops
from cnnjax.cli import xla
from cnnjax.jaxpr import walk
from cnnjax.receptive_field import rules
from cnnjax.receptive_field.theory import receptive_field

X = jnp.arange(6.0)


def equations(function, *args):
    return jax_versions.open_jaxpr(jax.make_jaxpr(function)(*args)).eqns


def equation(name, function, *args):
    return next(eqn for eqn in equations(function, *args) if eqn.primitive.name == name)


def result(jaxpr, *args):
    return core.jaxpr_as_fun(jax_versions.closed_jaxpr(jaxpr))(*args)


def test_the_version_is_one_of_those_that_are_known():
    known = tuple(int(part) for part in jax.__version__.split(".")[:2])
    assert (0, 10) <= known < (0, 13), "read the new JAX's changes, then widen this and the message of UnknownJaxError"


@pytest.mark.parametrize("reverse", [False, True])
def test_the_parts_of_a_scan(reverse):
    rows, weights = jnp.ones((4, 3)), (jnp.ones(3), jnp.full(3, 2.0))

    def body(carry, row):
        a, b, count = carry
        return (a * row + weights[0], b + weights[1], count + 1), (a * 2, row * 2)

    def scanned(rows, first):
        return lax.scan(body, (first, first + 1, 0), (rows, 2 * rows)[0], reverse=reverse)

    scan = jax_versions.scan_parts(equation("scan", scanned, rows, jnp.zeros(3)))
    assert (scan.num_consts, scan.num_carry, scan.length, scan.reverse) == (2, 3, 4, reverse)
    inside = jax_versions.open_jaxpr(scan.body)
    assert [var.aval.shape for var in inside.invars] == [(3,), (3,), (3,), (3,), (), (3,)]
    assert [var.aval.shape for var in inside.outvars] == [(3,), (3,), (), (3,), (3,)]


def test_the_parts_of_a_scan_that_differentiation_made():
    """A transposed scan groups its operands in other ways than one that was written."""
    weights = jnp.ones(3)

    def loss(rows, first):
        return lax.scan(lambda c, r: (jnp.sin(c) * r * weights, c.sum()), first, rows)[1].sum()

    for eqn in equations(jax.grad(loss, (0, 1)), jnp.ones((4, 3)), jnp.ones(3)):
        if eqn.primitive.name == "scan":
            scan = jax_versions.scan_parts(eqn)
            body = jax_versions.open_jaxpr(scan.body)
            carried = slice(scan.num_consts, scan.num_consts + scan.num_carry)
            assert [v.aval for v in eqn.invars[carried]] == [v.aval for v in eqn.outvars[: scan.num_carry]]
            assert len(body.invars) == len(eqn.invars)
            rows = eqn.invars[scan.num_consts + scan.num_carry :]
            assert [v.aval.shape[0] for v in rows] == [scan.length] * len(rows)


def test_the_parts_of_a_while_loop():
    def loop(x, limit):
        return lax.while_loop(lambda c: c[0] < limit, lambda c: (c[0] + 1, c[1] * x[0] + limit), (0, 1.0))

    parts = jax_versions.while_parts(equation("while", loop, X, 3))
    assert (parts.test_consts, parts.body_consts) == (1, 2)
    assert len(jax_versions.open_jaxpr(parts.test).outvars) == 1
    assert len(jax_versions.open_jaxpr(parts.body).outvars) == 2


def test_the_branches_of_a_cond_are_in_the_order_of_its_operand():
    eqn = equation("cond", lambda i, x: lax.switch(i, [jnp.sin, jnp.cos, jnp.tan], x), 1, X)
    assert jax_versions.branch_platforms(eqn) is None
    found = [result(branch, X)[0] for branch in jax_versions.branches(eqn)]
    np.testing.assert_allclose(found, [jnp.sin(X), jnp.cos(X), jnp.tan(X)], rtol=1e-6)


def test_a_choice_by_platform_names_its_platforms():
    eqn = equation("cond", lambda x: lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos), X)
    assert jax_versions.branch_platforms(eqn) == (("cpu",), None)


@jax.custom_jvp
def with_jvp(x):
    return 3 * x


with_jvp.defjvp(lambda primals, tangents: (3 * primals[0], 3 * tangents[0]))


@jax.custom_vjp
def with_vjp(x):
    return 3 * x


with_vjp.defvjp(lambda x: (3 * x, None), lambda _, g: (3 * g,))


@jax.custom_batching.custom_vmap
def with_vmap(x):
    return 3 * x


with_vmap.def_vmap(lambda size, batched, x: (3 * x, batched[0]))


CALLS = {
    "jit": jax.jit(lambda x: 3 * x),
    "remat": jax.checkpoint(lambda x: 3 * x),
    "custom_jvp": with_jvp,
    "custom_vjp": with_vjp,
    "custom_vmap": with_vmap,
    "composite": lambda x: lax.composite(lambda x: 3 * x, "test.triple")(x),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_called_is_found(name):
    (eqn,) = equations(CALLS[name], X)
    found = jax_versions.call_jaxpr(eqn)
    assert found is not None, f"{eqn.primitive.name} is not among the calls"
    np.testing.assert_array_equal(result(found, X)[0], 3 * X)
    image = jnp.zeros((1, 8, 1))
    pool = functools.partial(lax.reduce_window, init_value=0.0, computation=lax.add, padding="VALID")
    field = receptive_field(
        lambda x: pool(CALLS[name](x), window_dimensions=(1, 3, 1), window_strides=(1, 2, 1)), image.shape, 0, (1,)
    )
    assert (field.size, field.stride, field.exact) == ((3,), (2,), True)


@pytest.mark.parametrize("name", ["call_p", "closed_call_p", "eval_jaxpr_p"])
def test_calls_that_jax_itself_makes_are_known_by_this_versions_name(name):
    primitive = getattr(primitives, name, None)
    if primitive is not None:  # the first two until 0.11.0, the last from 0.11.1
        eqn = equation("jit", CALLS["jit"], X)
        call = eqn.replace(primitive=primitive, params={"call_jaxpr": jax_versions.call_jaxpr(eqn)})
        np.testing.assert_array_equal(result(jax_versions.call_jaxpr(call), X)[0], 3 * X)
    assert any(hasattr(primitives, name) for name in ("closed_call_p", "eval_jaxpr_p"))


def test_a_high_level_primitive_is_what_it_is_made_of():
    """From 0.12 on a search in a table is one equation; before, it was its loop."""
    table = jnp.array([-1.0, 0.0, 1.0])
    names = [step.eqn.primitive.name for step in walk(jax.make_jaxpr(lambda x: jnp.searchsorted(table, x))(X))]
    assert "gather" in names
    field = receptive_field(lambda x: jnp.searchsorted(table, x).astype(jnp.float32), (1, 5, 1), 0, (1,))
    assert (field.size, field.stride, field.exact) == ((1,), (1,), True)


def test_what_is_no_call_has_none():
    assert jax_versions.call_jaxpr(equation("sin", jnp.sin, X)) is None


def test_constants_of_a_jaxpr_stay_with_it():
    held = np.arange(6.0, dtype=np.float32)
    closed = jax.make_jaxpr(lambda x: jnp.sin(x) + jnp.asarray(held))(X)
    assert jax_versions.closed_jaxpr(closed) is closed
    inside = jax_versions.open_jaxpr(closed)
    assert len(inside.constvars) == len(closed.consts)
    assert [v.aval.shape for v in inside.invars] == [(6,)]
    short = jax_versions.shortened(closed, 1, [inside.eqns[0].outvars[0]])
    np.testing.assert_allclose(core.jaxpr_as_fun(short)(X)[0], jnp.sin(X))


def test_places_that_are_written_to_are_told_from_values():
    def writes(x):
        ref = jax.new_ref(x)
        ref[...] = x + 1
        return ref[...]

    marks = [any(map(jax_versions.is_mutable, (*eqn.invars, *eqn.outvars))) for eqn in equations(writes, X)]
    assert any(marks)
    assert not any(map(jax_versions.is_mutable, equation("sin", jnp.sin, X).invars))


def test_one_cpu_lowers_to_our_own_algorithm():
    """A context that this JAX calls otherwise would lose the CPU path without a word."""
    if jax.default_backend() != "cpu":
        pytest.skip("the CPU path is the CPU's")
    x, kernel = jnp.ones((8, 8, 8, 16)), jnp.ones((1, 1, 16, 16))
    text = jax.jit(lambda x, k: ops.conv2d(x, k)).lower(x, kernel).as_text()
    assert "stablehlo.convolution" not in text
    assert "dot_general" in text


class Unknown:
    """A lowering context of a JAX to come."""


def test_an_unknown_lowering_context_warns_and_takes_the_platforms_way():
    context = type("Context", (), {"module_context": type("Module", (), {"axis_context": Unknown()})})
    with pytest.warns(RuntimeWarning, match="lowers in a context that is not known, Unknown"):
        assert not jax_versions.is_for_one_device(context)


def test_within_shard_map_the_path_is_the_platforms():
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    seen = []

    def body(x):
        seen.append(jax_versions.on_no_mesh(x))
        return x

    spec = jax.sharding.PartitionSpec("d")
    jax.jit(jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=spec))(X)
    assert seen
    assert not any(seen)
    assert jax_versions.on_no_mesh(X)


def test_settings_of_jax_are_read(tmp_path):
    assert not jax_versions.without_jit()
    with jax.disable_jit():
        assert jax_versions.without_jit()
    before = jax.config.values["jax_compilation_cache_dir"]
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        assert jax_versions.compile_cache() == str(tmp_path)
        jax.config.update("jax_compilation_cache_dir", None)
        assert jax_versions.compile_cache() is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    with pytest.raises(jax_versions.UnknownJaxError, match="has no setting jax_no_such_thing"):
        jax_versions._config("jax_no_such_thing")


@pytest.mark.parametrize(
    "option",
    [{jax_versions.HEAP_SIZE: 1 << 20}, {jax_versions.YNN_FUSION: ""}, {jax_versions.NO_EXPENSIVE_PASSES: "True"}],
    ids=lambda option: next(iter(option)),
)
def test_xla_knows_our_options(option):
    if jax.default_backend() != "cpu":
        pytest.skip("these are options of XLA for the CPU")
    assert jax_versions.takes_options(**option)


@pytest.mark.parametrize(
    "function", [jnp.log2, jax.nn.sigmoid, jax.scipy.special.erf, lambda x: jnp.tanh(x) ** 2, jax.nn.gelu]
)
def test_functions_of_one_element_read_one_element(function):
    """JAX makes primitives of what were several: `log2` and `one_minus_square` from 0.11, `polynomial` from 0.12."""
    field = receptive_field(jax.grad(lambda x: function(x).sum()), (1, 5, 1), 0, (1,))
    assert (field.size, field.stride, field.exact) == ((1,), (1,), True)


def test_xla_refuses_an_option_that_it_does_not_know():
    assert not jax_versions.takes_options(xla_has_no_such_setting=1)


def test_the_command_lines_flag_is_the_same_option():
    assert f"--{jax_versions.YNN_FUSION}=" == xla._FLAG


def test_a_parameter_that_is_missing_is_named():
    eqn = equation("reduce_sum", lambda x: x.sum(), X)
    assert jax_versions.params(eqn)["axes"] == (0,)
    with pytest.raises(jax_versions.UnknownJaxError, match=r"has no parameter 'axis' of 'reduce_sum', only 'axes'"):
        jax_versions.params(eqn)["axis"]


# Primitives of JAX's without a rule of the receptive field's: it goes through what is inside them (calls, loops), or
# takes what they give to read everything and says so. One that is not here is new: give it a rule, or write it here.
WITHOUT_RULE = """
after_all all_gather all_to_all approx_top_k axis_index call cholesky closed_call cond create_token custom_jvp_call
custom_lin custom_linear_solve custom_vjp_call eig eigh empty2 eval_jaxpr get hessenberg householder_product iota jit lu
pmax pmin ppermute psum qr ragged_all_to_all random_bits random_fold_in random_gamma random_seed random_split remat2
rng_bit_generator rng_uniform scan schur select_and_gather_add select_and_scatter select_and_scatter_add svd swap
threefry2x32 triangular_solve tridiagonal tridiagonal_solve while
"""


def test_every_primitive_of_jax_has_a_rule_or_is_known_to_have_none():
    names = {p.name for p in vars(primitives).values() if isinstance(p, core.Primitive)}
    assert len(names) > 150
    assert names - set(rules.RULES) - set(WITHOUT_RULE.split()) == set()


READERS = re.compile(
    r"""eqn\.params | axis_context | jax\.config\.(jax_|values) | ClosedJaxpr
    | \.jaxpr\.(eqns|invars|outvars|constvars) | ["'](--)?xla_(?!dump|cuda|rocm)""",
    re.VERBOSE,
)


def test_nothing_else_in_the_package_reads_them():
    root = pathlib.Path(cnnjax.__file__).parent
    # One hands an equation's parameters on as they are; the other is set before JAX may be imported, and held above.
    allowed = {"receptive_field/value.py": "**self._eqn.params", "cli/xla.py": f"--{jax_versions.YNN_FUSION}="}
    found = []
    for path in root.rglob("*.py"):
        name = path.relative_to(root).as_posix()
        # Without comments, and with each statement on its own line.
        for line in ast.unparse(ast.parse(path.read_text())).splitlines():
            if READERS.search(line) and allowed.get(name, line + "?") not in line and name != "jax_versions.py":
                found.append(f"{name}: {line.strip()}")
    assert found == []
