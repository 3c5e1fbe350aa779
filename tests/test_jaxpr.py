"""The walker over jaxprs: scopes, what is inside, and multiply-accumulates against published and torch's own counts."""

import functools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax import lax

from cnnjax import jax_versions, models, ops
from cnnjax.jaxpr import count_macs, source_line, walk


def image(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def steps(module, *shape):
    """Return the steps of a linen module, traced from shapes alone."""
    variables = jax.eval_shape(module.init, jax.random.key(0), image(*shape))
    return list(walk(jax.make_jaxpr(module.apply)(variables, image(*shape))))


def module_macs(module, *shape):
    return sum(step.macs for step in steps(module, *shape))


class Block(nn.Module):
    features: int = 4

    @nn.compact
    def __call__(self, x, _=None):
        return nn.relu(nn.Conv(self.features, (3, 3), name="conv")(x)), None


class Split(nn.Module):
    """A module that calls a method of its own, which Flax gives a scope of its own."""

    def setup(self):
        self.dense = nn.Dense(3)

    def body(self, x):
        return self.dense(x)

    def __call__(self, x):
        return self.body(x)


class Everything(nn.Module):
    @nn.compact
    def __call__(self, x):
        x, _ = nn.remat(Block)(name="remat")(x)
        x, _ = nn.jit(Block)(name="jit")(x)
        scanned = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=5)
        x, _ = scanned(name="scan")(x, None)
        x = ops.max_pool(x, 2)
        return Split(name="split")(x.mean(axis=(1, 2)))


def test_paths_are_linens_names_through_every_transformation():
    found = {step.path: step for step in steps(Everything(), 1, 8, 8, 4) if step.macs}
    assert list(found) == [
        ("Everything", "remat", "conv"),
        ("Everything", "jit", "conv"),
        ("Everything", "scan", "conv"),
        ("Everything", "split", "dense"),
    ]
    once = 8 * 8 * 9 * 4 * 4
    assert [step.macs for step in found.values()] == [once, once, 5 * once, 4 * 3]
    assert found["Everything", "scan", "conv"].times == 5


def test_paths_survive_differentiation():
    module, x = Block(), image(1, 8, 8, 4)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    gradient = jax.make_jaxpr(jax.grad(lambda v, x: module.apply(v, x)[0].sum(), argnums=(0, 1)))(variables, x)
    paths = [step.path for step in walk(gradient) if step.macs]
    assert paths == [("Block", "conv")] * 3


def test_of_a_platform_choice_the_default_is_walked_and_counted_once():
    def net(x, kernel):
        return lax.platform_dependent(
            x, cpu=lambda x: ops.conv2d(ops.conv2d(x, kernel), kernel), default=lambda x: ops.conv2d(x, kernel)
        )

    assert count_macs(net, image(1, 8, 8, 4), image(3, 3, 4, 4)) == 8 * 8 * 9 * 16
    pool = jax.make_jaxpr(functools.partial(ops.max_pool, window=2))(image(1, 8, 8, 4))
    assert "reduce_window_max" in [step.eqn.primitive.name for step in walk(pool)]


def test_of_a_cond_the_dearest_branch_counts_and_a_loop_counts_once():
    def branching(x, a, wanted):
        return lax.cond(wanted, lambda: (x @ a) @ a, lambda: x @ a)

    assert count_macs(branching, image(2, 3), image(3, 3), jax.ShapeDtypeStruct((), bool)) == 2 * 18

    def looping(x, a):
        return lax.while_loop(lambda x: x.sum() > 0, lambda x: x @ a, x)

    assert count_macs(looping, image(2, 3), image(3, 3)) == 18

    def counted(x, a):
        return lax.fori_loop(0, 7, lambda _, x: x @ a, x)

    assert count_macs(counted, image(2, 3), image(3, 3)) == 7 * 18


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_groups_divide_the_cost(groups, stride):
    cost = count_macs(
        functools.partial(ops.conv2d, strides=stride, feature_group_count=groups),
        image(2, 8, 8, 4),
        image(3, 3, 4 // groups, 8),
    )
    assert cost == 2 * (8 // stride) ** 2 * 9 * (4 // groups) * 8


@pytest.mark.parametrize("mode", ["on", "off"])
def test_the_gradients_of_a_convolution_cost_what_it_costs(mode, monkeypatch):
    monkeypatch.setenv("CNNJAX_CPU_OPS", mode)
    shapes = image(2, 8, 8, 16), image(3, 3, 16, 32)
    once = count_macs(ops.conv2d, *shapes)
    loss = jax.grad(lambda x, kernel: ops.conv2d(x, kernel).sum(), argnums=(0, 1))
    # XLA's gradients read padding that the convolution's own do not count one by one: equal on SAME with stride 1.
    assert count_macs(loss, *shapes) == 3 * once == 3 * 2 * 64 * 9 * 16 * 32


def test_a_transposed_convolution_costs_what_the_convolution_does_that_it_transposes():
    cost = count_macs(functools.partial(ops.conv_transpose2d, strides=2), image(1, 5, 5, 3), image(4, 4, 3, 6))
    assert cost == 5 * 5 * 16 * 3 * 6


def test_matrix_products_with_batch_axes():
    assert count_macs(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), image(7, 2, 3), image(7, 3, 5)) == 7 * 2 * 3 * 5


def test_the_source_line_is_the_users():
    outer = jax.make_jaxpr(lambda x: jnp.sort(x) + lax.sin(x))(image(3)).jaxpr.eqns
    assert __file__ in source_line(next(eqn for eqn in outer if eqn.primitive.name == "sin"))
    (call,) = [eqn for eqn in outer if eqn.primitive.name == "jit"]
    (sort,) = [step.eqn for step in walk(call.params["jaxpr"])]
    assert __file__ not in source_line(sort)
    assert __file__ in source_line(sort, call)


def test_a_method_called_on_its_own_is_its_module():
    module = Split()
    variables = jax.eval_shape(module.init, jax.random.key(0), image(1, 4))
    closed = jax.make_jaxpr(functools.partial(module.apply, method="body"))(variables, image(1, 4))
    assert {step.path for step in walk(closed)} == {("Split", "dense")}


def test_an_open_jaxpr_and_constants_are_taken_too():
    closed = jax.make_jaxpr(lambda x: x @ jnp.ones((3, 3)))(image(2, 3))
    assert sum(step.macs for step in walk(closed.jaxpr)) == 18
    assert jax_versions.closed_jaxpr(closed) is closed


@pytest.mark.parametrize(
    ("name", "published"),
    # torchvision's table of operations, in multiply-accumulates, rounded to a million
    [
        *[("vgg16", 15.47e9), ("vgg19", 19.632e9), ("resnet18", 1.814e9), ("resnet50", 4.089e9)],
        *[("resnext50_32x4d", 4.23e9), ("mobilenet_v2", 0.301e9), ("mobilenet_v3_small", 0.057e9)],
        *[("densenet121", 2.834e9), ("efficientnet_b0", 0.386e9), ("convnext_tiny", 4.456e9)],
    ],
)
def test_published_costs(name, published):
    model = models.build(name)
    assert module_macs(model, 1, 224, 224, 3) == pytest.approx(published, rel=2e-4, abs=6e5)
