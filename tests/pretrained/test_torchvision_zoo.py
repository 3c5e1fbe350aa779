"""Every architecture that torchvision has too, through a file: written by torch, read by `load`, the same results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, pretrained
from tests.optional import torch
from tests.pretrained.torchvision_nets import build, images, run, weights

TOLERANCE = 1e-4
# Compiling is most of the time here, and the arithmetic is the same.
QUICKLY = {"xla_backend_optimization_level": 0}
RESNET = {f"stage{n}": f"layer{n}" for n in range(1, 5)}
GOOGLENET = {
    "stage1": "conv1",
    "stage2": "conv3",
    "stage3": "inception3b",
    "stage4": "inception4e",
    "stage5": "inception5b",
}
INCEPTION_V3 = {
    "stage1": "Conv2d_2b_3x3",
    "stage2": "Conv2d_4a_3x3",
    "stage3": "Mixed_5d",
    "stage4": "Mixed_6e",
    "stage5": "Mixed_7c",
}
# What an auxiliary head reads, and the head.
AUXILIARY = {
    "googlenet_torchvision": {"aux_logits1": ("inception4a", "aux1"), "aux_logits2": ("inception4d", "aux2")},
    "inception_v3_torchvision": {"aux_logits1": ("Mixed_6e", "AuxLogits")},
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
    "inception_v3_torchvision": INCEPTION_V3,
    **{f"resnet{depth}": RESNET for depth in (18, 34, 50, 101, 152)},
}
# One of each kind of block.
WITH_GRADIENT = ["alexnet", "vgg11_bn", "googlenet_torchvision", "inception_v3_torchvision", "resnet18", "resnet50"]
QUICK = {"resnet18", "googlenet_torchvision"}


def relative(found, expected):
    assert found.shape == expected.shape
    assert np.isfinite(expected).all()
    return np.abs(found - expected).max() / np.abs(expected).max()


def through_a_file(name, tmp_path, num_classes=10, **options):
    """Return torchvision's net and ours with its weights."""

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

    logits, features = jax.jit(forward, compiler_options=QUICKLY)(variables, x)
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

        found = np.asarray(jax.jit(jax.grad(loss), compiler_options=QUICKLY)(x, variables))
    expected = run(net.double(), x, gradient=True)[2]
    assert relative(found, expected) <= 1e-9


@pytest.mark.parametrize("name", [name for name in STAGES if name in QUICK])
def test_results_are_torchvisions(name, tmp_path):
    check_results(name, tmp_path)


@pytest.mark.slow
def test_results_are_torchvisions_on_a_small_image(tmp_path):
    check_results("vgg11_bn", tmp_path, size=(34, 45))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in STAGES if name not in QUICK])
def test_results_of_every_architecture_are_torchvisions(name, tmp_path):
    check_results(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"), [("googlenet_torchvision", (97, 130)), ("inception_v3_torchvision", (300, 299))]
)
def test_auxiliary_heads_are_torchvisions(name, size, tmp_path):
    net, model, variables = through_a_file(name, tmp_path, aux_logits=True)
    x, heads = images(*size, batch=1), AUXILIARY[name]
    logits, state = jax.jit(lambda v, x: model.apply(v, x, mutable=["intermediates"]), compiler_options=QUICKLY)(
        variables, x
    )
    expected, inputs, _ = run(net, x, [place for place, _ in heads.values()])
    assert relative(logits, expected) <= TOLERANCE
    for (name, (_, head)), features in zip(heads.items(), inputs, strict=True):
        assert relative(state["intermediates"][name][0], run(getattr(net, head), features)[0]) <= TOLERANCE, name


@pytest.mark.slow
@pytest.mark.parametrize("name", AUXILIARY)
def test_results_without_auxiliary_heads_are_torchvisions(name, tmp_path):
    check_results(name, tmp_path, aux_logits=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_GRADIENT)
def test_the_inputs_gradient_is_torchs(name, tmp_path):
    check_gradient(name, tmp_path, size=(78, 91) if "inception" in name else (66, 75))
