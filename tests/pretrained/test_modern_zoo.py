"""The nets since 2016 through files of torch: small ones of each family, and torchvision's own in the slow tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, pretrained
from cnnjax.layers import hard_swish
from cnnjax.models.convnext import ConvNeXt
from cnnjax.models.densenet import DenseNet
from cnnjax.models.efficientnet import EfficientNet
from cnnjax.models.mobilenet_v2 import MobileNetV2
from cnnjax.models.mobilenet_v3 import SMALL, MobileNetV3
from cnnjax.models.resnet import ResNet, resnet50d, seresnet50
from cnnjax.pretrained.rules import namings_for
from tests.models.variants import repeats
from tests.optional import torch
from tests.pretrained import timm_nets
from tests.pretrained.torchvision_nets import images, randomised, run, weights
from tests.pretrained.torchvision_oracle import torchvision

# Compiling is most of the time here, and the arithmetic is the same.
QUICKLY = {"xla_backend_optimization_level": 0}
SIZE = (33, 40)


def mobilenet_v2():
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 1, 2))
    settings = [[t, c, n, s] for t, c, n, s in stages]
    net = torchvision().models.mobilenet_v2(num_classes=10, width_mult=0.35, inverted_residual_setting=settings)
    return net, MobileNetV2(stages=stages, width=0.35, num_classes=10)


def densenet():
    net = torchvision().models.DenseNet(8, (2, 3, 2), 16, num_classes=10)
    return net, DenseNet(block_sizes=(2, 3, 2), growth=8, width=16, num_classes=10)


def mobilenet_v3():
    blocks, module = (*SMALL[:2], *SMALL[3:5]), torchvision().models.mobilenetv3
    channels = [16, *(block.features for block in blocks)]
    rows = [
        module.InvertedResidualConfig(c, b.kernel, b.expanded, b.features, b.gated, act, b.strides, 1, 1.0)
        for c, b in zip(channels, blocks)
        for act in ["HS" if b.act is hard_swish else "RE"]
    ]
    return module.MobileNetV3(rows, 32, num_classes=10), MobileNetV3(blocks=blocks, hidden=32, num_classes=10)


def efficientnet():
    module = torchvision().models.efficientnet
    rows = [(1, 3, 1, 32, 16, 1), (6, 3, 2, 16, 24, 2), (6, 5, 2, 24, 40, 1)]
    net = module.EfficientNet([module.MBConvConfig(*r, 0.5, 1.1) for r in rows], 0.2, num_classes=10)
    stages = tuple((t, k, s, c, n) for t, k, s, _, c, n in rows)
    return net, EfficientNet(stages=stages, width=0.5, depth=1.1, num_classes=10)


def convnext():
    module = torchvision().models.convnext
    rows = [module.CNBlockConfig(16, 32, 1), module.CNBlockConfig(32, 64, 2), module.CNBlockConfig(64, None, 1)]
    return module.ConvNeXt(rows, num_classes=10), ConvNeXt(stage_sizes=(1, 2, 1), width=16, num_classes=10)


def convnext_timm():
    return timm_nets.convnext((1, 2, 1), 16, 10), ConvNeXt(stage_sizes=(1, 2, 1), width=16, num_classes=10)


def small_resnet(net):
    """Return a residual net of the same kind with fewer and narrower blocks."""
    options = {**net.keywords, "stage_sizes": (2, 1), "width": 16, "num_classes": 10}
    return ResNet(**options)


def seresnet():
    return timm_nets.resnet((2, 1), 16, 10, gated=True), small_resnet(seresnet50)


def resnet_d():
    return timm_nets.resnet((2, 1), 16, 10, deep=True), small_resnet(resnet50d)


SMALL_NETS = [mobilenet_v2, densenet, mobilenet_v3, efficientnet, convnext, convnext_timm, seresnet, resnet_d]
WHOLE = {
    **dict.fromkeys(("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2"), (66, 75)),
    **{f"densenet{depth}": (66, 75) for depth in (121, 169, 201)},
    **dict.fromkeys(("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"), (66, 75)),
    **{f"efficientnet_b{n}": (66, 75) for n in range(8)},
    **{f"convnext_{size}": (66, 75) for size in ("tiny", "small", "base", "large")},
}


def relative(found, expected):
    assert found.shape == expected.shape
    assert np.isfinite(expected).all()
    return np.abs(found - expected).max() / np.abs(expected).max()


def check(net, model, tmp_path, size, gradient, tolerance=1e-4, source=None):
    """Compare logits and the input's gradient in float64, where no activation lies on another side of a kink."""
    net = randomised(net, size=size).double()
    path = tmp_path / "weights.pth"
    torch.save(
        {name: value.float() if value.is_floating_point() else value for name, value in net.state_dict().items()}, path
    )
    net.load_state_dict(torch.load(path))
    variables, report = pretrained.load(model, path, **({"source": source} if source else {}))
    path.unlink()
    loaded = [entry for entry in report.entries if entry.action == "loaded"]
    assert len(loaded) == len(jax.tree.leaves(variables))
    x = images(*size).astype(np.float64)
    with jax.enable_x64():
        model = model.copy(dtype=jnp.float64)
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)

        def loss(x, variables):
            logits = model.apply(variables, x)
            return jnp.sum(logits * weights(logits.shape)), logits

        function = jax.grad(loss, has_aux=True) if gradient else loss
        found, logits = jax.jit(function, compiler_options=QUICKLY)(x, variables)
    expected, _, slopes = run(net, x, gradient=gradient)
    assert np.abs(expected[0] - expected[1]).max() > 0.01 * np.abs(expected).max(), "the logits do not see the image"
    assert relative(logits, expected) <= tolerance
    if gradient:
        assert relative(np.asarray(found), slopes) <= tolerance


@pytest.mark.parametrize("nets", SMALL_NETS, ids=lambda nets: nets.__name__)
def test_a_small_net_of_the_family_is_torchs(nets, tmp_path):
    torchvision()
    net, model = nets()
    check(net, model, tmp_path, SIZE, gradient=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=repeats(name)) for name in WHOLE])
def test_the_whole_net_is_torchvisions(name, tmp_path):
    net = getattr(torchvision().models, name)(num_classes=10)
    check(net, models.build(name, num_classes=10), tmp_path, WHOLE[name], gradient=not name.endswith(("7", "large")))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("seresnet50", {"gated": True}), ("resnet50d", {"deep": True})])
def test_the_whole_net_is_timms(name, options, tmp_path):
    net = timm_nets.resnet((3, 4, 6, 3), 64, 10, **options)
    check(net, models.build(name, num_classes=10), tmp_path, (66, 75), gradient=True, source="timm")


@pytest.mark.parametrize(
    "family", ["mobilenet_v2", "densenet121", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny"]
)
def test_a_file_of_the_other_publishers_form_is_not_taken(family):
    for name, expected in ((family, False), (f"{family}_keras", True)):
        namings = [n.name for n in namings_for(models.build(name)) if not n.name.startswith("cnnjax")]
        assert namings
        assert {n == "keras" for n in namings} == {expected}
