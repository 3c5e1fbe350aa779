"""The recipes by name, each with the source of its numbers; a family's nets share one record."""

from cnnjax.recipes.recipe import Recipe

# --- small images of digits ---------------------------------------------------------------------------------------

# 1,300 training images: small batches, shifts of up to 4 of the 32 pixels that a digit is enlarged to.
_DIGITS = Recipe(
    model="lenet5",
    dataset="digits",
    epochs=30,
    batch_size=32,
    optimizer="adam",
    learning_rate=2e-3,
    schedule="one-cycle",
    augment=("translate:4",),
    image_size=32,
)
# The classic course exercise: plain SGD, no schedule, stop when the validation loss rises.
_MNIST_CLASSIC = Recipe(
    model="lenet5",
    dataset="mnist",
    epochs=50,
    batch_size=32,
    optimizer="sgd",
    learning_rate=0.01,
    schedule="constant",
    monitor="val_loss",
    patience=3,
)
# The same net in a fifth of the steps: one-cycle Adam and shifts of up to 2 pixels.
_MNIST_FAST = Recipe(
    model="lenet5",
    dataset="mnist",
    epochs=10,
    batch_size=128,
    optimizer="adam",
    learning_rate=4e-3,
    schedule="one-cycle",
    augment=("translate:2",),
)

# --- CIFAR-10 -----------------------------------------------------------------------------------------------------

# He et al., 2015, https://arxiv.org/abs/1512.03385, section 4.2: 64,000 steps of 128 on 45,000 images, a tenth of the
# rate after 32,000 and 48,000; published test accuracy 91.25 % (resnet20) to 93.57 % (resnet110).
_CIFAR_PAPER = Recipe(
    model="resnet20",
    dataset="cifar10",
    epochs=182,
    batch_size=128,
    optimizer="momentum",
    learning_rate=0.1,
    schedule="step",
    boundaries=(0.5, 0.75),
    momentum=0.9,
    weight_decay=1e-4,
    augment=("pad-crop:4", "flip"),
)
# K. Liu's pytorch-cifar (main.py), the usual reference for the 32-pixel forms of the ImageNet nets: 92.64 % (vgg16),
# 93.02 % (resnet18).
_CIFAR_COMMON = _CIFAR_PAPER.replace(model="resnet18_cifar", epochs=200, schedule="cosine", weight_decay=5e-4)
# Zagoruyko and Komodakis, 2016, https://arxiv.org/abs/1605.07146, section 3: a fifth of the rate after 60, 120 and 160
# epochs; published test accuracy 96.0 %.
_WIDE = _CIFAR_PAPER.replace(
    model="wide_resnet28_10",
    epochs=200,
    optimizer="nesterov",
    boundaries=(0.3, 0.6, 0.8),
    lr_decay=0.2,
    weight_decay=5e-4,
)
# Xie et al., 2016, https://arxiv.org/abs/1611.05431, section 5.3: a tenth of the rate after 150 and 225 epochs; 96.35 %
_RESNEXT_CIFAR = _CIFAR_PAPER.replace(model="resnext29_8x64d", epochs=300, weight_decay=5e-4)
# Huang et al., 2016, https://arxiv.org/abs/1608.06993, section 4.2: likewise, batches of 64; 95.49 %.
_DENSENET_CIFAR = _CIFAR_PAPER.replace(model="densenet_bc_100_12", epochs=300, batch_size=64, optimizer="nesterov")

# --- ImageNet -----------------------------------------------------------------------------------------------------

# torchvision's references/classification, which its first published weights were trained with: 90 epochs, a tenth of
# the rate every 30.
_IMAGENET = Recipe(
    model="resnet50",
    dataset="imagenet2012",
    epochs=90,
    batch_size=256,
    optimizer="momentum",
    learning_rate=0.1,
    schedule="step",
    boundaries=(1 / 3, 2 / 3),
    momentum=0.9,
    weight_decay=1e-4,
    augment=("flip",),
    image_size=224,
)
# The same source: nets without batch normalisation need a tenth of the rate.
_IMAGENET_PLAIN = _IMAGENET.replace(model="vgg16", learning_rate=0.01)
# Szegedy et al., 2014, https://arxiv.org/abs/1409.4842, section 6: momentum 0.9, 4 % less rate every 8 epochs. What the
# paper leaves open (rate, decay, batch, length) is BVLC's solver.prototxt, which reproduces it: 10 million steps of 32.
_GOOGLENET = _IMAGENET.replace(
    model="googlenet",
    epochs=250,
    batch_size=32,
    learning_rate=0.01,
    boundaries=tuple(8 * n / 250 for n in range(1, 32)),
    lr_decay=0.96,
    weight_decay=2e-4,
)
# Szegedy et al., 2015, https://arxiv.org/abs/1512.00567, section 8: RMSProp with decay 0.9 and epsilon 1, 6 % less rate
# every 2 of 100 epochs, gradients clipped at 2, label smoothing 0.1. Its 50 replicas of 32 updated one after the other;
# here they are batches of 32 in turn.
_INCEPTION_V3 = _IMAGENET.replace(
    model="inception_v3_torchvision",
    epochs=100,
    batch_size=32,
    optimizer="rmsprop",
    learning_rate=0.045,
    boundaries=tuple(n / 50 for n in range(1, 50)),
    lr_decay=0.94,
    momentum=0.0,
    weight_decay=4e-5,
    clip_norm=2.0,
    label_smoothing=0.1,
    image_size=299,
)
# torchvision's references: as the residual nets, 100 epochs for ResNeXt.
_RESNEXT = _IMAGENET.replace(model="resnext50_32x4d", epochs=100, boundaries=(0.3, 0.6, 0.9))
# Huang et al., 2016, section 4.2.
_DENSENET = _IMAGENET.replace(model="densenet121", optimizer="nesterov")
# torchvision's references: 2 % less rate every epoch.
_MOBILENET_V2 = _IMAGENET.replace(
    model="mobilenet_v2",
    epochs=300,
    learning_rate=0.045,
    boundaries=tuple(n / 300 for n in range(1, 300)),
    lr_decay=0.98,
    weight_decay=4e-5,
)
# torchvision's references: 8 devices of 128 images, 2.7 % less rate every 2 of 600 epochs. Its policy (AutoAugment) and
# random erasing are RandAugment and cutout here.
_MOBILENET_V3 = _IMAGENET.replace(
    model="mobilenet_v3_large",
    epochs=600,
    batch_size=1024,
    optimizer="rmsprop",
    learning_rate=0.064,
    boundaries=tuple(n / 300 for n in range(1, 300)),
    lr_decay=0.973,
    weight_decay=1e-5,
    augment=("flip", "randaugment:2:9", "cutout:56"),
)
# torchvision's references: 8 devices of 128 images, 600 epochs at 176 pixels, evaluated on moving averages. Its policy
# (TrivialAugment) is RandAugment here, and every image is taken once an epoch, not four times.
_CONVNEXT = _IMAGENET.replace(
    model="convnext_tiny",
    epochs=600,
    batch_size=1024,
    optimizer="adamw",
    learning_rate=1e-3,
    schedule="cosine",
    warmup_epochs=5,
    weight_decay=0.05,
    decay_mask="kernels",
    label_smoothing=0.1,
    ema=0.9999,
    augment=("flip", "randaugment:2:9", "mixup:0.2", "cutmix:1.0"),
)

RECIPES: dict[str, Recipe] = {
    "lenet5-digits": _DIGITS,
    "lenet5-mnist": _MNIST_CLASSIC,
    "lenet5-mnist-fast": _MNIST_FAST,
    "lenet5_1998-mnist": _MNIST_FAST.replace(model="lenet5_1998"),
    "simple_cnn-mnist": _MNIST_FAST.replace(model="simple_cnn", learning_rate=2e-3),
    **{f"resnet{n}-cifar10": _CIFAR_PAPER.replace(model=f"resnet{n}") for n in (20, 32, 44, 56)},
    # Section 4.2: at once 0.1 is too much for 110 layers, so the rate rises over the first 400 steps.
    "resnet110-cifar10": _CIFAR_PAPER.replace(model="resnet110", warmup_epochs=400 / 351.5625),
    "resnet18-cifar10": _CIFAR_COMMON,
    "vgg16-cifar10": _CIFAR_COMMON.replace(model="vgg16_cifar"),
    "googlenet-cifar10": _CIFAR_COMMON.replace(model="googlenet_cifar"),
    "wide_resnet28_10-cifar10": _WIDE,
    "resnext29_8x64d-cifar10": _RESNEXT_CIFAR,
    "densenet_bc_100_12-cifar10": _DENSENET_CIFAR,
    "alexnet-imagenet": _IMAGENET_PLAIN.replace(model="alexnet"),
    **{f"vgg{n}-imagenet": _IMAGENET_PLAIN.replace(model=f"vgg{n}") for n in (11, 13, 16, 19)},
    **{f"vgg{n}_bn-imagenet": _IMAGENET_PLAIN.replace(model=f"vgg{n}_bn") for n in (11, 13, 16, 19)},
    "googlenet-imagenet": _GOOGLENET,
    "inception_v3-imagenet": _INCEPTION_V3,
    **{f"resnet{n}-imagenet": _IMAGENET.replace(model=f"resnet{n}") for n in (18, 34, 50, 101, 152)},
    **{f"{name}-imagenet": _RESNEXT.replace(model=name) for name in ("resnext50_32x4d", "resnext101_32x8d")},
    **{f"wide_resnet{n}_2-imagenet": _IMAGENET.replace(model=f"wide_resnet{n}_2") for n in (50, 101)},
    **{f"densenet{n}-imagenet": _DENSENET.replace(model=f"densenet{n}") for n in (121, 169, 201)},
    "mobilenet_v2-imagenet": _MOBILENET_V2,
    **{
        f"mobilenet_v3_{size}-imagenet": _MOBILENET_V3.replace(model=f"mobilenet_v3_{size}")
        for size in ("small", "large")
    },
    **{
        f"convnext_{size}-imagenet": _CONVNEXT.replace(model=f"convnext_{size}")
        for size in ("tiny", "small", "base", "large")
    },
}
