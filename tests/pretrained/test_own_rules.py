"""`rules=`: nets of known architectures that others wrote in torch under names of their own, and saved as they do."""

import jax
import numpy as np
import pytest

from cnnjax import models
from cnnjax.pretrained import Rule, WeightsError, load
from tests.optional import torch
from tests.pretrained.torchvision_nets import images

QUICKLY = {"xla_backend_optimization_level": 0}


def residual_net(size, classes):
    """Return a residual net of torch; its classes are made here so that the file imports without torch."""
    functional = torch.nn.functional

    class Block(torch.nn.Module):
        """Two convolutions beside option A's shortcut: every second pixel, new channels zero, half on each side."""

        def __init__(self, channels, features):
            super().__init__()
            self.stride = features // channels
            self.conv1 = torch.nn.Conv2d(channels, features, 3, self.stride, 1, bias=False)
            self.bn1 = torch.nn.BatchNorm2d(features)
            self.conv2 = torch.nn.Conv2d(features, features, 3, 1, 1, bias=False)
            self.bn2 = torch.nn.BatchNorm2d(features)
            self.new = (features - channels) // 2

        def forward(self, x):
            y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
            return functional.relu(
                y + functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.new, self.new))
            )

    class ResNet(torch.nn.Module):
        """The residual net of He et al. 2015, section 4.2, with the names that most of its torch versions have."""

        def __init__(self, size, classes):
            super().__init__()
            self.conv1 = torch.nn.Conv2d(3, 16, 3, 1, 1, bias=False)
            self.bn1 = torch.nn.BatchNorm2d(16)
            for number, features in enumerate((16, 32, 64), 1):
                first = Block(max(16, features // 2), features)
                stage = torch.nn.Sequential(first, *(Block(features, features) for _ in range(size - 1)))
                setattr(self, f"layer{number}", stage)
            self.linear = torch.nn.Linear(64, classes)

        def forward(self, x):
            x = self.layer3(self.layer2(self.layer1(functional.relu(self.bn1(self.conv1(x))))))
            return self.linear(x.mean((2, 3)))

    return ResNet(size, classes)


@pytest.fixture(scope="module")
def net():
    """A ResNet-20 with everything random, its statistics too."""
    torch.manual_seed(0)
    net = residual_net(3, 10)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_(0, 0.2)
                layer.running_mean.normal_(0, 0.3)
                layer.running_var.uniform_(0.5, 2)
    return net.eval()


def check(net, model, variables):
    x = images(27, 34)
    with torch.no_grad():
        want = net(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()
    got = jax.jit(model.apply, compiler_options=QUICKLY)(variables, x)
    assert np.abs(want[0] - want[1]).max() > 0.05 * np.abs(want).max()
    assert np.abs(np.asarray(got) - want).max() < 1e-4 * np.abs(want).max()


def test_a_residual_net_with_option_a_saved_from_a_parallel_model(net, tmp_path):
    path = tmp_path / "resnet20.th"
    torch.save({"state_dict": torch.nn.DataParallel(net).state_dict(), "best_prec1": 91.7}, path)
    assert "module.layer1.0.conv1.weight" in torch.load(path)["state_dict"]
    model = models.build("resnet20", num_classes=10)
    variables, report = load(model, path, rules=[("linear", "head/logits")])
    check(net, model, variables)
    assert report.naming == "your rules and torchvision"
    destinations = {entry.source: entry.destination for entry in report.entries}
    assert destinations["module.linear.weight"] == "params/head/logits/kernel"
    with pytest.raises(WeightsError, match=r"expected module.fc.weight, nearest module\.linear\.weight"):
        load(model, path)


def test_all_names_can_be_ones_own(net, tmp_path):
    """Numbers shifted, norms in lists beside the convolutions, one counter that no net reads, an average left out."""
    state = {}
    for name, value in net.state_dict().items():
        parts = name.split(".")
        if parts[0].startswith("layer"):
            kind, number = parts[2][:-1], int(parts[2][-1])
            what = {"conv": "convs", "bn": "norms"}[kind]
            name = f"net.group{int(parts[0][-1]) - 1}.unit{int(parts[1]) + 1}.{what}.{number - 1}.{parts[3]}"
        else:
            name = "net." + name.replace("conv1", "first").replace("bn1", "first_norm").replace("linear", "out")
        state[name] = value
    state["ema.out.weight"] = torch.zeros(10, 64)
    torch.save(state, tmp_path / "own.pt")
    block = "stage{g+1}_block{u-1}/conv{k+1}"
    rules = [
        ("net.first", "stem/conv"),
        ("net.first_norm", "stem/norm"),
        ("net.group{g}.unit{u}.convs.{k}", f"{block}/conv"),
        ("net.group{g}.unit{u}.norms.{k}", f"{block}/norm"),
        ("net.out", "head/logits"),
        Rule("ema.{rest*}", None, reason="an average that is not wanted"),
    ]
    model = models.build("resnet20", num_classes=10)
    variables, report = load(model, tmp_path / "own.pt", rules=rules)
    check(net, model, variables)
    assert report.naming == "your rules"
    with pytest.raises(WeightsError, match=r"1 left over: ema.out.weight \[10, 64\]"):
        load(model, tmp_path / "own.pt", rules=rules[:-1])
