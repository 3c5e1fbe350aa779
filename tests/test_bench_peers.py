"""What bench/ calls plain Flax is the same net as ours, on nothing but Flax's own functions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.inference import SIDES
from bench.race import Peer, same_nets

ROOT = Path(__file__).resolve().parents[1]
# Prints the shapes of a net's parameters and the primitives of its training step's gradients.
PROGRAM = """
import json, sys
import jax
from jax_nets import net_and_images
seen = {}
for name, side in json.loads(sys.argv[2]):
    model, x = net_and_images(sys.argv[1], name, 2, side)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), x)
    def loss(variables, x):
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(variables, x, train=True, mutable=["batch_stats"], rngs=rngs)[0].sum()
    text = str(jax.make_jaxpr(jax.grad(loss))(variables, x))
    shapes = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}
    seen[name] = shapes, text.count("cnnjax_"), text.count("conv_general_dilated[")
print(json.dumps(seen))
"""


def nets(kind: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, json.dumps(list(SIDES.items()))],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'bench' / 'peers'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_plain_flax_is_the_same_net_without_our_functions():
    ours, theirs = nets("cnnjax"), nets("flax")
    assert ours.keys() == theirs.keys() == SIDES.keys()
    for name in ours:
        assert ours[name][0] == theirs[name][0], name
        assert ours[name][1] > 0, name
        assert theirs[name][1] == 0, name
        assert theirs[name][2] >= 5, name  # of two convolutions: forward, to the kernels and once to the images


def test_a_peer_with_another_net_is_no_peer():
    peers = [Peer(str(n), None, None, hello={"params": n}) for n in (61706, 61706, 61705)]  # pyright: ignore[reportArgumentType]
    peers.append(Peer("absent", None, None, failure="skipped: not installed"))  # pyright: ignore[reportArgumentType]
    same_nets(peers)
    assert [peer.failure for peer in peers] == [
        "",
        "",
        "failed: its net has 61,705 parameters, 61706's 61,706",
        "skipped: not installed",
    ]
