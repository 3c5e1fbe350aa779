"""torchvision's nets as oracles: every parameter and statistic random, activations of sane size, on small images."""

import numpy as np

from tests.pretrained.torchvision_oracle import torchvision


def build(name, seed=0, num_classes=10, **options):
    """Return a net in evaluation mode that no initialiser has touched.

    Convolutions and dense layers keep the variance, normalisations get random scales and shifts, and their running
    statistics are those of a random batch, each then changed at random: no one of them is 0, 1 or equal to another.
    """
    module = torchvision()

    if "inception" in name or "googlenet" in name or "vgg" in name:
        options["init_weights"] = False
    net = getattr(module.models, name)(num_classes=num_classes, **options)
    return randomised(net, seed, (163, 195) if "inception" in name else (97, 130))


def randomised(net, seed=0, size=(97, 130)):
    """Return a net of torch after doing to it what `build` says, its statistics those of images of a size."""
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for layer in net.modules():
            if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
                layer.weight.normal_(0, (2 / layer.weight[0].numel()) ** 0.5)
                if layer.bias is not None:
                    layer.bias.normal_(0, 0.1)
            elif isinstance(layer, torch.nn.BatchNorm2d | torch.nn.LayerNorm):
                layer.weight.uniform_(0.7, 1.3)
                layer.bias.normal_(0, 0.2)
        for norm in norms:
            norm.momentum = 1.0
        for name, scale in net.named_parameters():
            if name.endswith(("layer_scale", "gamma")):
                scale.uniform_(0.2, 0.6)
        for block in net.modules():
            # Many branches as strong as their shortcuts make a net chaotic: rounding grows from block to block.
            if hasattr(block, "bn2") and hasattr(block, "downsample"):
                (block.bn3 if hasattr(block, "bn3") else block.bn2).weight *= 0.4
        net.train()
        for layer in net.modules():
            if isinstance(layer, torch.nn.Dropout) or type(layer).__name__ == "StochasticDepth":
                layer.eval()
        if norms:
            # InceptionV3's auxiliary head needs larger images; its statistics stay at 0 and 1 until the next lines.
            auxiliary, net.AuxLogits = getattr(net, "AuxLogits", None), None
            net(torch.randn(2, 3, *size))
            net.AuxLogits = auxiliary
        for norm in norms:
            norm.running_mean += 0.2 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.7, 1.4)
    return net.eval()


def images(height, width, batch=2, seed=1):
    """Return random images of different contrast: deep nets without normalisation see little else of noise."""
    noise = np.random.default_rng(seed).standard_normal((batch, height, width, 3)).astype(np.float32)
    return noise * np.linspace(1, 0.3, batch, dtype=np.float32)[:, None, None, None]


def run(net, x, stages=(), gradient=False):
    """Return the logits, the outputs of some modules as `[N, H, W, C]`, and the gradient of a weighted sum."""
    import torch

    seen = {}
    modules = dict(net.named_modules())
    hooks = [
        modules[stage].register_forward_hook(lambda _, __, out, stage=stage: seen.__setitem__(stage, out))
        for stage in stages
    ]
    tensor = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=gradient)
    with torch.set_grad_enabled(gradient):
        logits = net(tensor)
    for hook in hooks:
        hook.remove()
    if gradient:
        (logits * torch.tensor(weights(logits.shape)).to(logits)).sum().backward()
    channels_last = [seen[stage].detach().numpy().transpose(0, 2, 3, 1) for stage in stages]
    return logits.detach().numpy(), channels_last, tensor.grad.numpy().transpose(0, 2, 3, 1) if gradient else None


def weights(shape):
    return np.random.default_rng(2).standard_normal(shape).astype(np.float32)
