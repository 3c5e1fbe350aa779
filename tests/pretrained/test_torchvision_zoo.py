"""Every architecture that torchvision has too, through a file: written by torch, read by `load`, the same results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, pretrained
from tests.pretrained.torchvision_nets import build, images, run, weights

pytest.importorskip("torch")

TOLERANCE = 1e-4
RESNET = {f"stage{n}": f"layer{n}" for n in range(1, 5)}
GOOGLENET = {
    "stage1": "conv1",
    "stage2": "conv3",
    "stage3": "inception3b",
    "stage4": "inception4e",
    "stage5": "inception5b",
}


def vgg(sizes, places):
    ends = np.cumsum([size * places + 1 for size in sizes]) - 1
    return {f"stage{n}": f"features.{end}" for n, end in enumerate(ends, 1)}


VGG = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2,) * 5, "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
STAGES = {
    "alexnet": {"stage1": "features.2", "stage2": "features.5", "stage3": "features.12"},
    **{name: vgg(sizes, 2) for name, sizes in VGG.items()},
    **{f"{name}_bn": vgg(sizes, 3) for name, sizes in VGG.items()},
    "googlenet_torchvision": GOOGLENET,
    **{f"resnet{depth}": RESNET for depth in (18, 34, 50, 101, 152)},
}
# One of each kind of block.
WITH_GRADIENT = ["alexnet", "vgg11_bn", "googlenet_torchvision", "resnet18", "resnet50"]
QUICK = {"resnet18", "googlenet_torchvision"}


def relative(found, expected):
    assert found.shape == expected.shape
    assert np.isfinite(expected).all()
    return np.abs(found - expected).max() / np.abs(expected).max()


def through_a_file(name, tmp_path, num_classes=10, **options):
    """Return torchvision's net and ours with its weights."""
    import torch

    net = build(name.removesuffix("_torchvision"), num_classes=num_classes, **options)
    path = tmp_path / "weights.pth"
    torch.save(net.state_dict(), path)
    model = models.build(name, num_classes=num_classes, **options)
    variables, report = pretrained.load(model, path)
    path.unlink()  # half a gigabyte, for some
    loaded = [entry for entry in report.entries if entry.action == "loaded"]
    assert len(loaded) == len(jax.tree.leaves(variables))
    assert {e.reason.split(":")[0] for e in report.entries if e.action != "loaded"} <= {"num_batches_tracked"}
    return net, model, variables


def check_results(name, tmp_path, size=(97, 130), **options):
    net, model, variables = through_a_file(name, tmp_path, **options)
    x, stages = images(*size), STAGES[name]

    def forward(variables, x):
        logits, state = model.apply(variables, x, mutable=["intermediates"])
        return logits, [state["intermediates"][stage][0] for stage in stages]

    logits, features = jax.jit(forward)(variables, x)
    expected, expected_features, _ = run(net, x, list(stages.values()))
    assert np.abs(expected[0] - expected[1]).max() > 0.1 * np.abs(expected).max(), "the logits do not see the image"
    assert relative(logits, expected) <= TOLERANCE
    for stage, mine, theirs in zip(stages, features, expected_features, strict=True):
        assert relative(mine, theirs) <= TOLERANCE, stage


def check_gradient(name, tmp_path, size=(66, 75), **options):
    """Compare in float64: in float32 a few activations land on the other side of a ReLU's zero."""
    net, _, variables = through_a_file(name, tmp_path, **options)
    x = images(*size).astype(np.float64)
    with jax.enable_x64():
        model = models.build(name, num_classes=10, dtype=jnp.float64, **options)
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)

        def loss(x, variables):
            logits = model.apply(variables, x)
            return jnp.sum(logits * weights(logits.shape))

        found = np.asarray(jax.jit(jax.grad(loss))(x, variables))
    expected = run(net.double(), x, gradient=True)[2]
    assert relative(found, expected) <= 1e-9


@pytest.mark.parametrize("name", [name for name in STAGES if name in QUICK])
def test_results_are_torchvisions(name, tmp_path):
    check_results(name, tmp_path)


def test_results_are_torchvisions_on_a_small_image(tmp_path):
    check_results("vgg11_bn", tmp_path, size=(34, 45))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STAGES if name not in QUICK])
def test_results_of_every_architecture_are_torchvisions(name, tmp_path):
    check_results(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_GRADIENT)
def test_the_inputs_gradient_is_torchs(name, tmp_path):
    check_gradient(name, tmp_path)
