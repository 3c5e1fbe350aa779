"""timm's nets as their publications have them, in plain torch, with the names of timm's state dicts.

References:
  Hu et al., 2017, https://arxiv.org/abs/1709.01507; He et al., 2018, https://arxiv.org/abs/1812.01187, figure 2;
  Liu et al., 2022, https://arxiv.org/abs/2201.03545; names: timm 1.0, `resnet.py`, `squeeze_excite.py`, `convnext.py`.
"""

from tests.optional import torch


def resnet(sizes, width, classes, *, gated=False, deep=False):
    """Return a residual net of bottlenecks: `gated` with SE modules, `deep` with ResNet-D's stem and shortcuts."""
    nn = torch.nn

    class SEModule(nn.Module):
        """Mean, 1x1 down to a sixteenth (to a multiple of 8), ReLU, 1x1 up, sigmoid, product."""

        def __init__(self, channels):
            super().__init__()
            squeezed = max(8, (channels // 16 + 4) // 8 * 8)
            self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

        def forward(self, x):
            return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))))

    class Bottleneck(nn.Module):
        """1x1, 3x3 with the stride, 1x1 up to four times the width."""

        def __init__(self, channels, features, stride):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(channels, features, 1, bias=False), nn.BatchNorm2d(features)
            self.conv2 = nn.Conv2d(features, features, 3, stride, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(features)
            self.conv3, self.bn3 = nn.Conv2d(features, 4 * features, 1, bias=False), nn.BatchNorm2d(4 * features)
            self.se = SEModule(4 * features) if gated else nn.Identity()
            self.downsample = None
            if stride > 1 or channels != 4 * features:
                pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
                step = 1 if deep else stride
                conv = nn.Conv2d(channels, 4 * features, 1, step, bias=False)
                self.downsample = nn.Sequential(*([pool] if deep else []), conv, nn.BatchNorm2d(4 * features))

        def forward(self, x):
            y = torch.relu(self.bn1(self.conv1(x)))
            y = torch.relu(self.bn2(self.conv2(y)))
            y = self.se(self.bn3(self.conv3(y)))
            return torch.relu(y + (x if self.downsample is None else self.downsample(x)))

    class ResNet(nn.Module):
        """Stem, stages, mean, logits."""

        def __init__(self):
            super().__init__()
            half = width // 2
            self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
            if deep:
                parts = [nn.Conv2d(3, half, 3, 2, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU()]
                parts += [nn.Conv2d(half, half, 3, 1, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU()]
                self.conv1 = nn.Sequential(*parts, nn.Conv2d(half, width, 3, 1, 1, bias=False))
            self.bn1, channels = nn.BatchNorm2d(width), width
            for number, size in enumerate(sizes, 1):
                features, blocks = width * 2 ** (number - 1), []
                for place in range(size):
                    blocks.append(Bottleneck(channels, features, 2 if number > 1 and place == 0 else 1))
                    channels = 4 * features
                setattr(self, f"layer{number}", nn.Sequential(*blocks))
            self.fc = nn.Linear(channels, classes)

        def forward(self, x):
            x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
            for number in range(1, len(sizes) + 1):
                x = getattr(self, f"layer{number}")(x)
            return self.fc(x.mean((2, 3)))

    return ResNet()


def convnext(sizes, width, classes):
    """Return a ConvNeXt with timm's names."""
    nn = torch.nn

    class LayerNorm2d(nn.LayerNorm):
        """Normalise over the channels of a map."""

        def forward(self, x):
            return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    class Mlp(nn.Module):
        """Two dense layers with GELU between them."""

        def __init__(self, channels):
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

        def forward(self, x):
            return self.fc2(nn.functional.gelu(self.fc1(x)))

    class Block(nn.Module):
        """Depthwise 7x7, norm, dense layers, scale."""

        def __init__(self, channels):
            super().__init__()
            self.conv_dw = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
            self.norm, self.mlp = nn.LayerNorm(channels, eps=1e-6), Mlp(channels)
            self.gamma = nn.Parameter(torch.ones(channels))

        def forward(self, x):
            y = self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1)))
            return x + (y * self.gamma).permute(0, 3, 1, 2)

    class Stage(nn.Module):
        """Norm and 2x2/2 before all but the first, then blocks."""

        def __init__(self, channels, features, size):
            super().__init__()
            down = [LayerNorm2d(channels, eps=1e-6), nn.Conv2d(channels, features, 2, 2)]
            self.downsample = nn.Identity() if channels == features else nn.Sequential(*down)
            self.blocks = nn.Sequential(*(Block(features) for _ in range(size)))

        def forward(self, x):
            return self.blocks(self.downsample(x))

    class ConvNeXt(nn.Module):
        """Stem, stages, mean, norm, logits."""

        def __init__(self):
            super().__init__()
            widths = [width * 2**n for n in range(len(sizes))]
            self.stem = nn.Sequential(nn.Conv2d(3, width, 4, 4), LayerNorm2d(width, eps=1e-6))
            pairs = zip([width, *widths[:-1]], widths, sizes)
            self.stages = nn.Sequential(*(Stage(*row) for row in pairs))
            head = {"norm": nn.LayerNorm(widths[-1], eps=1e-6), "fc": nn.Linear(widths[-1], classes)}
            self.head = nn.ModuleDict(head)

        def forward(self, x):
            x = self.stages(self.stem(x)).mean((2, 3))
            return self.head["fc"](self.head["norm"](x))

    return ConvNeXt()
