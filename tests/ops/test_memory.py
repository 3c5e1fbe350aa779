"""Steps on a CPU are compiled for small heaps; everything else about them is `jax.jit`'s."""

import ctypes
import os
import platform
import re
import subprocess
import sys
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from cnnjax import jax_versions, layers
from cnnjax.ops import dispatch
from cnnjax.ops.cpu import memory
from cnnjax.training import create_state, keep_freed_memory, make_eval_step, make_train_step


def chain(x, rounds=6):
    """Keep several arrays as large as x alive at once."""
    kept = [jnp.sin(x)]
    for _ in range(rounds):
        kept.append(jnp.cumsum(kept[-1], axis=0))
    return sum(jnp.flip(a, 0) for a in kept)


@pytest.fixture(autouse=True)
def without_cache():
    """Switch off the cache of compiled programs that these tests run with."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()


def heaps(jitted, x, folder):
    """Return the sizes of the temporary memory that XLA's own report names."""
    jitted.lower(x).compile(compiler_options={"xla_dump_to": str(folder)})
    (report,) = folder.glob("*chain*buffer-assignment.txt")
    return [
        int(n) for n in re.findall(r"allocation \d+: size (\d+),(?: page \d+,)? preallocated-temp", report.read_text())
    ]


def test_the_memory_of_a_function_is_in_several_memory(tmp_path):
    x = jnp.ones((1024, 2048))  # 8 MB
    jitted = memory.jit(chain)
    plain, small = heaps(jitted._plain, x, tmp_path / "plain"), heaps(jitted._small, x, tmp_path / "small")
    assert len(plain) == 1
    assert plain[0] > memory._HEAP_BYTES
    assert len(small) > 1
    assert max(small) <= memory._HEAP_BYTES


def test_values_are_those_of_jit_and_the_function_is_traced_once():
    traces = []

    def f(x):
        traces.append(x)
        return chain(x)

    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 32)), jnp.float32)
    jitted = memory.jit(f)
    first, again = jitted(x), jitted(x)
    assert len(traces) == 1
    np.testing.assert_array_equal(first, jax.jit(chain)(x))
    np.testing.assert_array_equal(first, again)


def chosen(jitted, *args):
    return {id(jitted._small): "small", id(jitted._plain): "plain"}[id(jitted._chosen(args, {}))]


def test_only_what_fits_is_compiled_for_memory():
    jitted = memory.jit(lambda x: jnp.broadcast_to(x, (9, *x.shape)).sum(0) + 1)
    shapes = {size: jax.ShapeDtypeStruct((size,), jnp.float32) for size in (1 << 10, 1 << 20)}
    assert {size: chosen(jitted, shape) for size, shape in shapes.items()} == {1 << 10: "small", 1 << 20: "plain"}
    assert chosen(jitted, jnp.zeros(7, jnp.int8)) == "small"


def test_nothing_is_done_where_a_setting_speaks_against_it(monkeypatch):
    jitted = memory.jit(lambda x: x + 1)
    assert chosen(jitted, 1.0) == "small"
    with monkeypatch.context() as patch:
        patch.setenv(dispatch.SWITCH, "off")
        assert chosen(jitted, 1.0) == "plain"
    with monkeypatch.context() as patch:
        patch.setenv("XLA_FLAGS", f"--{jax_versions.HEAP_SIZE}=1000000")
        assert chosen(jitted, 1.0) == "plain"
    with jax.disable_jit():
        assert jitted(1.0) == 2
    with monkeypatch.context() as patch:  # another XLA, that does not know it
        patch.setattr(memory, "_OPTIONS", {"xla_has_no_such_setting": 1})
        assert chosen(jitted, 1.0) == "plain"
        assert memory.jit(lambda x: x + 1)(1.0) == 2
    with monkeypatch.context() as patch:
        patch.setattr(memory, "_platform", lambda leaves: "cuda")
        assert chosen(jitted, 1.0) == "plain"  # the same shapes elsewhere
    assert chosen(jitted, 1.0) == "small"


def test_what_a_cache_is_to_keep_has_one_heap(tmp_path):
    """XLA cannot write a program with several, and JAX would warn at each compilation."""
    jitted = memory.jit(lambda x: x + 1)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    assert chosen(jitted, 1.0) == "plain"
    assert jitted(1.0) == 2
    assert list(tmp_path.iterdir())


def test_every_transformation_of_a_jitted_function_works():
    jitted, x = memory.jit(lambda x: (x**3).sum()), jnp.arange(4.0)
    np.testing.assert_allclose(jax.grad(jitted)(x), 3 * x**2)
    np.testing.assert_allclose(jax.jit(lambda x: 2 * jitted(x))(x), 72)
    np.testing.assert_allclose(jax.vmap(jitted)(x[:, None]), x**3)
    assert jax.eval_shape(jitted, x).shape == jitted.eval_shape(x).shape == ()
    assert jitted.trace(x).jaxpr.in_avals[0].shape == (4,)
    np.testing.assert_allclose(jitted.lower(jax.ShapeDtypeStruct((4,), jnp.float32)).compile()(x), 36)
    total, _ = jax.lax.scan(lambda c, x: (c + jitted(x), None), 0.0, x[:, None])
    np.testing.assert_allclose(total, 36)


def test_a_cleared_cache_compiles_anew():
    traces = []
    jitted = memory.jit(lambda x: traces.append(x) or x + 1)
    for expected in (1, 1):
        jitted(1.0)
        assert len(traces) == expected
    jitted.clear_cache()
    assert not jitted._fits
    jitted(1.0)
    assert len(traces) == 2


def test_options_are_those_of_jit():
    jitted, x = memory.jit(lambda x: x + 1, donate_argnums=0), jnp.zeros(5)
    jitted(x=jnp.zeros(5))
    jitted(x)
    assert x.is_deleted()


class Stem(nn.Module):
    """The first layers of ResNet-50 and GoogLeNet."""

    @nn.compact
    def __call__(self, x, train=False):
        x = layers.ConvNormAct(64, (7, 7), strides=(2, 2))(x, train=train)
        x = layers.MaxPool((3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))(x)
        return nn.Dense(3)(x.mean((1, 2)))


def test_the_largest_steps_of_the_benchmark_fit():
    """Padded for the pool, the stem's output is the largest array of both nets' steps at batch 8."""
    step, images = make_train_step(), jax.ShapeDtypeStruct((8, 224, 224, 3), jnp.float32)
    state = create_state(Stem(), optax.sgd(0.1, momentum=0.9), (1, 224, 224, 3), key=jax.random.key(0))
    batch = {"image": images, "label": jax.ShapeDtypeStruct((8,), jnp.int32)}
    assert step._chosen((state, batch), {}) is step._small


_FAULTS = """
import resource, statistics
import jax, jax.numpy as jnp
from cnnjax.ops.cpu import memory

def products(x):  # nine arrays of 10 MB at once, three of which fill a heap
    kept = [jnp.sin(x)]
    for _ in range(8):
        kept.append(kept[-1] @ jnp.eye(16))
    return sum(jnp.flip(a, 0) for a in kept).sum()

def faults(jitted, x):
    counts = []
    for _ in range(31):  # of which some are the first on a thread whose memory is another
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        jitted(x).block_until_ready()
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return statistics.median(counts)

x = jnp.ones((163_840, 16))
jitted = memory.jit(products)
kept = memory.keep_freed_memory()
print(faults(jitted, x), kept)
"""


def _faults():
    """Return the median page faults of a call in small heaps, and whether memory is kept, of a new process."""
    said = {name for name in os.environ if "MALLOC" in name} | {"GLIBC_TUNABLES", "XLA_FLAGS"}
    environment = {name: value for name, value in os.environ.items() if name not in said}
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    command = [sys.executable, "-c", _FAULTS]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    faults, keeps = done.stdout.split()
    return float(faults), keeps == "True"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_a_step_takes_no_memory_anew():
    faults, keeps = _faults()
    assert keeps
    assert faults < 9 * 10 * 2**20 / os.sysconf("SC_PAGE_SIZE") / 20


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_"])
def test_a_malloc_that_was_set_up_stays_so(monkeypatch, name):
    monkeypatch.setattr(ctypes, "CDLL", lambda path: pytest.fail("malloc was set up anew"))
    with monkeypatch.context() as patch:
        patch.setenv(name, "1000000")
        assert not memory.keep_freed_memory.__wrapped__()
    monkeypatch.setenv("GLIBC_TUNABLES", f"glibc.malloc.hugetlb=1:glibc.malloc.{name[7:-1].lower()}=1000000")
    assert not memory.keep_freed_memory.__wrapped__()


def test_another_malloc_is_left_alone(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda path: object())
    assert not memory.keep_freed_memory.__wrapped__()
    monkeypatch.setattr(ctypes, "CDLL", lambda path: pytest.fail("malloc was set up on another system"))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not memory.keep_freed_memory.__wrapped__()


def test_malloc_is_set_up_by_nobody_who_does_not_ask(monkeypatch):
    """A process is its owner's: compiling and calling a step changes no setting of it."""
    monkeypatch.setattr(ctypes, "CDLL", lambda path: pytest.fail("malloc was set up"))
    jitted = memory.jit(lambda x: x + 2)
    assert (chosen(jitted, 1.0), jitted(1.0)) == ("small", 3)
    for speaks_against in ({"XLA_FLAGS": f"--{jax_versions.HEAP_SIZE}=1000000"}, {dispatch.SWITCH: "off"}):
        with monkeypatch.context() as patch:
            for name, value in speaks_against.items():
                patch.setenv(name, value)
            assert not keep_freed_memory.__wrapped__()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not keep_freed_memory.__wrapped__()


class Net(nn.Module):
    """Convolutions whose arrays, of 8 MB each, need several heaps."""

    @nn.compact
    def __call__(self, x, train=False):
        for name in "abc":
            x = nn.relu(layers.ConvNormAct(16, (3, 3), name=name)(x, train=train)) + 1
        return nn.Dense(3)(x.mean((1, 2)))


@pytest.mark.slow
def test_training_in_several_heaps_is_training_in_one_bit_by_bit():
    rng = np.random.default_rng(0)
    batch = {"image": rng.normal(size=(32, 64, 64, 16)).astype(np.float32), "label": np.arange(32) % 3}
    step = make_train_step()
    results = {}
    for name in ("_plain", "_small"):
        state = create_state(Net(), optax.sgd(0.1, momentum=0.9), (1, 64, 64, 16), key=jax.random.key(0))
        assert step._chosen((state, batch), {}) is step._small  # what it takes by itself
        for _ in range(3):
            state, metrics = getattr(step, name)(state, batch)
        results[name] = jax.device_get((state.params, state.batch_stats, state.opt_state, metrics))
    jax.tree.map(np.testing.assert_array_equal, results["_plain"], results["_small"])


@pytest.mark.parametrize("make", [make_train_step, partial(make_train_step, accumulate=2), make_eval_step])
def test_the_steps_are_compiled_so(make):
    assert isinstance(make(), memory.MultiHeapJit)
