"""The convolution primitive: every transformation, platform, switch and sharding."""

import os
import re
import subprocess
import sys
from functools import partial
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from cnnjax import ops
from cnnjax.ops import cpu, dispatch
from cnnjax.ops.xla_faults import hide_constant_p
from tests.ops import oracles


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def conv(x, k, strides=(2, 1)):
    return ops.conv2d(x, k, strides=strides, padding=1, feature_group_count=x.shape[3] // k.shape[2])


def lax_conv(x, k, strides=(2, 1)):
    return oracles.lax_conv(x, k, strides, ((1, 1), (1, 1)), groups=x.shape[3] // k.shape[2])


@pytest.fixture
def operands():
    return draw((8, 6, 5, 2), (3, 3, 2, 3))


@pytest.fixture(params=[1, 2, 4], ids="{0} groups".format)
def any_operands(request):
    """Return images and kernels without groups, with two, and of a depthwise convolution."""
    channels = {1: 2, 2: 4, 4: 4}[request.param]
    return draw((8, 6, 5, channels), (3, 3, channels // request.param, 4))


def roles(f, x, k):
    """Return the three roles of f as functions of their two operands, with operands to call them with."""
    g = draw(f(x, k).shape)[0]
    return {
        "forward": (f, (x, k)),
        "input_grad": (lambda g, k: jax.vjp(lambda x: f(x, k), x)[1](g)[0], (g, k)),
        "kernel_grad": (lambda x, g: jax.vjp(lambda k: f(x, k), k)[1](g)[0], (x, g)),
    }


def test_a_narrow_convolution_is_one_equation(operands):
    # The other one hides constant kernels from XLA.
    jaxpr = jax.make_jaxpr(conv)(*operands)
    assert [eqn.primitive.name for eqn in jaxpr.eqns] == ["cnnjax_hide_constant", "cnnjax_conv"]
    backward = str(jax.make_jaxpr(jax.grad(lambda *a: conv(*a).sum(), (0, 1)))(*operands))
    assert all(f"role={role}" in backward for role in ("input_grad", "kernel_grad"))


def test_derivatives_of_any_order_and_mode(operands):
    check_grads(jax.jit(conv), operands, order=3, modes=("fwd", "rev"), eps=1e-2, atol=3e-2, rtol=3e-2)
    x, k = operands
    hessian = jax.hessian(lambda k: (conv(x, k) ** 2).sum())(k)
    oracles.close(hessian, jax.hessian(lambda k: (lax_conv(x, k) ** 2).sum())(k))
    mixed = jax.jacfwd(jax.grad(lambda x, k: (conv(x, k) ** 3).sum()), 1)(x, k)
    oracles.close(mixed, jax.jacfwd(jax.grad(lambda x, k: (lax_conv(x, k) ** 3).sum()), 1)(x, k))


@pytest.mark.parametrize("role", cpu.ROLES)
def test_third_order_stays_among_the_roles(any_operands, role):
    ours, arguments = roles(conv, *any_operands)[role]
    theirs, _ = roles(lax_conv, *any_operands)[role]
    tangents = tuple(draw(*(a.shape for a in arguments)))
    for transformed in (
        lambda f: f(*arguments),
        lambda f: jax.jvp(f, arguments, tangents)[1],
        lambda f: jax.grad(lambda *a: (f(*a) ** 2).sum(), 0)(*arguments),
        lambda f: jax.grad(lambda *a: (f(*a) ** 2).sum(), 1)(*arguments),
    ):
        oracles.close(transformed(ours), transformed(theirs))


@pytest.mark.parametrize("role", cpu.ROLES)
@pytest.mark.parametrize("in_axes", [(0, None), (None, 0), (0, 0), (2, 1)])
def test_vmap_of_every_role(any_operands, role, in_axes):
    ours, arguments = roles(conv, *any_operands)[role]
    theirs, _ = roles(lax_conv, *any_operands)[role]
    arguments = [
        a if axis is None else jnp.stack([a, 2 * a, -a], axis) for a, axis in zip(arguments, in_axes, strict=True)
    ]
    oracles.close(jax.vmap(ours, in_axes)(*arguments), jax.vmap(theirs, in_axes)(*arguments))


def test_per_example_gradients(any_operands):
    x, k = any_operands

    def loss(f, x, k):
        return (f(x[None], k) ** 2).sum()

    ours, theirs = (jax.vmap(jax.grad(partial(loss, f), 1), (0, None))(x, k) for f in (conv, lax_conv))
    oracles.close(ours, theirs)


def test_scan_remat_and_export(any_operands):
    x, k = any_operands

    def loss(f, x, k):
        return (f(x, k) ** 2).sum()

    truth = jax.grad(partial(loss, lax_conv), (0, 1))(x, k)
    for f in (jax.checkpoint(conv), jax.jit(conv)):
        for ours, theirs in zip(jax.grad(partial(loss, f), (0, 1))(x, k), truth):
            oracles.close(ours, theirs)

    def accumulate(f, xs, k):
        return lax.scan(lambda c, x: (c + jax.grad(partial(loss, f), 1)(x, k), None), jnp.zeros_like(k), xs)[0]

    xs = jnp.stack([x, -2 * x])
    oracles.close(*(jax.jit(partial(accumulate, f))(xs, k) for f in (conv, lax_conv)))
    exported = jax.export.export(jax.jit(jax.grad(partial(loss, conv), 1)), platforms=("cpu", "cuda"))(x, k)
    oracles.close(exported.call(x, k), truth[1])


def test_export_with_a_symbolic_batch(operands):
    x, k = operands
    shape = jax.export.symbolic_shape("n, 6, 5, 2")
    exported = jax.export.export(jax.jit(conv))(
        jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(k.shape, jnp.float32)
    )
    oracles.close(exported.call(x, k), lax_conv(x, k))


def test_accelerators_get_their_own_convolutions(operands):
    step = jax.jit(jax.value_and_grad(lambda x, k: (conv(x, k) ** 2).sum(), (0, 1)))
    traced = step.trace(*operands)
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution") == 3
        assert "dot_general" not in text
        assert "rhs_dilate = [4, 1]" not in text
    text = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert text.count("dot_general") >= 2  # banded
    assert text.count("stablehlo.convolution") == text.count("rhs_dilate = [4, 1]") == 1  # of dilated images


@pytest.mark.parametrize("groups", [2, 6])
def test_accelerators_get_their_own_grouped_convolutions(groups):
    x, k = draw((2, 8, 7, 6), (3, 3, 6 // groups, 12))

    def kinds(f, platform):
        step = jax.jit(jax.value_and_grad(lambda x, k: (f(x, k) ** 2).sum(), (0, 1)))
        text = step.trace(x, k).lower(lowering_platforms=(platform,)).as_text()
        return sorted(re.findall(r"stablehlo\.convolution.*?window = \{.*", text))

    for platform in ("cuda", "tpu"):
        assert kinds(conv, platform) == kinds(lax_conv, platform)
        assert len(kinds(conv, platform)) == 3
    assert {group for line in kinds(conv, "cpu") for group in re.findall(r"group_count = (\d+)", line)} <= {"1"}


@pytest.mark.parametrize(("mode", "fast"), [("on", True), ("", True), ("off", False), ("exact", False)])
def test_switch(operands, monkeypatch, mode, fast):
    monkeypatch.setenv(dispatch.SWITCH, mode)
    text = jax.jit(lambda *a: conv(*a)).lower(*operands).as_text()
    assert ("stablehlo.convolution" not in text) == fast
    oracles.close(jax.jit(lambda *a: conv(*a))(*operands), lax_conv(*operands))


def test_switch_is_part_of_the_key_of_what_is_compiled(monkeypatch):
    """One function, one shape, three programs; plain jit of one's own keeps what it was traced with."""
    x, k = draw((8, 16, 16, 192), (3, 3, 192, 192))
    x = x.at[3, 8, 8, 5].set(jnp.inf)
    spread = {}
    for mode in ("on", "exact", "off"):
        monkeypatch.setenv(dispatch.SWITCH, mode)
        spread[mode] = int((~jnp.isfinite(ops.conv2d(x, k))).sum())
    assert spread["exact"] == spread["off"] == 9 * 192 < spread["on"]


def test_the_gradient_of_a_sum_of_outputs_is_right():
    """XLA for the CPU computes garbage of a reduction after its own kernel's gradient for one repeated number."""
    x, k = draw((2, 32, 32, 16), (3, 3, 16, 32))
    found = jax.jit(lambda x, k: (jax.grad(lambda k: ops.conv2d(x, k).sum())(k) ** 2).sum())(x, k)
    pixels = np.pad(np.asarray(x, np.float64).sum(0), ((1, 1), (1, 1), (0, 0)))
    taps = np.array([[pixels[a : a + 32, b : b + 32].sum((0, 1)) for b in range(3)] for a in range(3)])
    np.testing.assert_allclose(found, 32 * (taps**2).sum(), rtol=1e-5)


def test_without_jit_it_is_the_platforms(any_operands):
    """`jax.disable_jit` is how one debugs."""
    expected = jax.grad(lambda *a: (lax_conv(*a) ** 2).sum(), (0, 1))(*any_operands)
    with jax.disable_jit():
        found = jax.grad(lambda *a: (conv(*a) ** 2).sum(), (0, 1))(*any_operands)
    for gradient, truth in zip(found, expected):
        oracles.close(gradient, truth)


def test_switch_refuses_other_words(operands, monkeypatch):
    monkeypatch.setenv(dispatch.SWITCH, "fast")
    with pytest.raises(ValueError, match="CNNJAX_CPU_OPS: expected one of on, off, exact, got 'fast'"):
        conv(*operands)


def test_exact_mode_keeps_a_nan_in_its_windows(operands, monkeypatch):
    monkeypatch.setenv(dispatch.SWITCH, "exact")
    x, k = operands
    x = x.at[0, 3, 2, 1].set(jnp.nan)
    np.testing.assert_array_equal(jnp.isnan(jax.jit(lambda *a: conv(*a))(x, k)), jnp.isnan(jax.jit(lax_conv)(x, k)))


@pytest.mark.parametrize(
    "options",
    [
        {"batch_group_count": 2},
        {"lhs_dilation": (2, 1), "precision": "highest"},
        {"preferred_element_type": jnp.float64},
        {"dimension_numbers": ("NCHW", "OIHW", "NHWC")},
    ],
)
def test_what_is_not_plain_goes_to_lax(options: dict[str, Any]):
    x, k = jax.ShapeDtypeStruct((2, 6, 6, 6), jnp.float32), jax.ShapeDtypeStruct((3, 3, 6, 6), jnp.float32)
    if "dimension_numbers" in options:
        k = jax.ShapeDtypeStruct((6, 6, 3, 3), jnp.float32)
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), **options}
    with jax.enable_x64(True):
        jaxpr = jax.make_jaxpr(lambda x, k: ops.conv_general_dilated(x, k, (1, 1), [(1, 1), (1, 1)], **options))(x, k)
    assert [eqn.primitive.name for eqn in jaxpr.eqns if eqn.primitive is not hide_constant_p] == [
        "conv_general_dilated"
    ]


SHARDED = """
import re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jax import lax
from cnnjax import ops

mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.{axis},))
x = jax.device_put(jnp.ones((16, 6, 5, 2)), NamedSharding(mesh, P("data")))
k = jax.device_put(jnp.ones((3, 3, 2, 3)), NamedSharding(mesh, P()))

def platform(x, k):
    return lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

def ours(x, k):
    return ops.conv2d(x, k)

def collectives(conv):
    step = lambda x, k: jax.value_and_grad(lambda k: (conv(x, k) ** 2).sum())(k)
    if {manual}:
        inner = step
        def summed(x, k):
            value = inner(x, lax.pcast(k, "data", to="varying"))
            return jax.tree.map(lambda a: lax.psum(a, "data"), value)
        step = jax.shard_map(summed, mesh=mesh, in_specs=(P("data"), P()), out_specs=P())
    with jax.set_mesh(mesh) if {axis!r} == "Explicit" else jax.enable_x64(False):
        compiled = jax.jit(step).lower(x, k).compile()
        value = compiled(x, k)
    return sorted(re.findall(r" (all-\\\\w+|collective-\\\\w+|reduce-scatter)\\\\(", compiled.as_text())), value

(mine, mine_value), (theirs, their_value) = collectives(ours), collectives(platform)
assert mine == theirs and "all-gather" not in mine and mine, (mine, theirs)
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), mine_value, their_value)
"""


@pytest.mark.parametrize(("axis", "manual"), [("Auto", False), ("Auto", True), ("Explicit", False)])
def test_sharded_inputs_take_the_platforms_convolution(axis, manual):
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    code = SHARDED.format(axis=axis, manual=manual).replace("\\\\", "\\")
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("shape", "kernel"), [((2, 8, 8, 128), (3, 3, 128, 128)), ((2, 8, 8, 8), (3, 3, 8, 8))])
def test_the_gradient_over_no_examples_is_zero_as_laxs(shape, kernel):
    x, k = jnp.ones((0, *shape)), jnp.ones(kernel)

    def loss(k, conv):
        y = jax.vmap(lambda x: conv(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))(x)
        return y.sum()

    ours, theirs = (
        jax.jit(jax.grad(loss), static_argnums=1)(k, f) for f in (ops.conv_general_dilated, lax.conv_general_dilated)
    )
    np.testing.assert_array_equal(ours, theirs)
    assert not ours.any()
    images = jax.grad(lambda x: jax.vmap(lambda x: ops.conv2d(x, k))(x).sum())(x)
    assert images.shape == x.shape
