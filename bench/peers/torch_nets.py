"""The nets of bench/train_step.py in PyTorch, with the parameters that cnnjax's have."""

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

GOOGLENET = {
    "3": [(192, 64, 96, 128, 16, 32, 32), (256, 128, 128, 192, 32, 96, 64)],
    "4": [
        (480, 192, 96, 208, 16, 48, 64),
        (512, 160, 112, 224, 24, 64, 64),
        (512, 128, 128, 256, 24, 64, 64),
        (512, 112, 144, 288, 32, 64, 64),
        (528, 256, 160, 320, 32, 128, 128),
    ],
    "5": [(832, 256, 160, 320, 32, 128, 128), (832, 384, 192, 384, 48, 128, 128)],
}


def conv(i, o, kernel, stride=1, *, act=True, bias=False, eps=1e-5):
    layers = [nn.Conv2d(i, o, kernel, stride, kernel // 2, bias=bias), nn.BatchNorm2d(o, eps=eps)]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if act else []))


class Residual(nn.Module):
    """A basic or a bottleneck block, with a projection or the paper's option A as its shortcut."""

    def __init__(self, i, width, stride, *, bottleneck=False, project=True):
        super().__init__()
        o = width * 4 if bottleneck else width
        if bottleneck:
            parts = [conv(i, width, 1), conv(width, width, 3, stride), conv(width, o, 1, act=False)]
        else:
            parts = [conv(i, width, 3, stride), conv(width, o, 3, act=False)]
        self.body = nn.Sequential(*parts)
        self.stride, self.more = stride, o - i
        changes = stride != 1 or i != o
        self.shortcut = conv(i, o, 1, stride, act=False) if changes and project else None

    def forward(self, x):
        if self.shortcut is not None:
            short = self.shortcut(x)
        elif self.more:
            short = x[:, :, :: self.stride, :: self.stride]
            short = nn.functional.pad(short, (0, 0, 0, 0, 0, self.more))
        else:
            short = x
        return torch.relu(self.body(x) + short)


def resnet(stem, sizes, width, **options):
    layers, i = [*stem], width
    for stage, size in enumerate(sizes):
        for number in range(size):
            features = width * 2**stage
            layers.append(Residual(i, features, 2 if stage and not number else 1, **options))
            i = features * (4 if options.get("bottleneck") else 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(i, 10))


class Inception(nn.Module):
    """torchvision's inception module."""

    def __init__(self, i, one, reduce3, three, reduce5, five, project):
        super().__init__()
        pool = nn.MaxPool2d(3, 1, 1)
        self.branches = nn.ModuleList(
            [
                conv(i, one, 1, eps=1e-3),
                nn.Sequential(conv(i, reduce3, 1, eps=1e-3), conv(reduce3, three, 3, eps=1e-3)),
                nn.Sequential(conv(i, reduce5, 1, eps=1e-3), conv(reduce5, five, 3, eps=1e-3)),
                nn.Sequential(pool, conv(i, project, 1, eps=1e-3)),
            ]
        )

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


def googlenet():
    stem = [conv(3, 64, 7, 2, eps=1e-3), nn.MaxPool2d(3, 2, ceil_mode=True)]
    stem += [conv(64, 64, 1, eps=1e-3), conv(64, 192, 3, eps=1e-3), nn.MaxPool2d(3, 2, ceil_mode=True)]
    body = []
    for stage, modules in GOOGLENET.items():
        body += [Inception(*widths) for widths in modules]
        body += [nn.MaxPool2d(3 if stage == "3" else 2, 2, ceil_mode=True)] if stage != "5" else []
    return nn.Sequential(*stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(1024, 10))


def vgg16_cifar():
    layers, i = [], 3
    for size, o in zip((2, 2, 3, 3, 3), (64, 128, 256, 512, 512), strict=True):
        for _ in range(size):
            layers.append(conv(i, o, 3, bias=True))
            i = o
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(512, 10)]
    return nn.Sequential(*layers, *head)


def lenet5():
    return nn.Sequential(
        *[nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)],
        *[nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()],
        *[nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)],
    )


NETS = {
    "lenet5": lenet5,
    "resnet20": lambda: resnet([conv(3, 16, 3)], (3, 3, 3), 16, project=False),
    "resnet18_cifar": lambda: resnet([conv(3, 64, 3)], (2, 2, 2, 2), 64),
    "vgg16_cifar": vgg16_cifar,
    "googlenet_torchvision": googlenet,
    "resnet50": lambda: resnet([conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)], (3, 4, 6, 3), 64, bottleneck=True),
}
